"""What tests of several folders share: instances as processes, free ports."""
