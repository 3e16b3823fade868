"""Sources of the compiled libraries, and how they are built (``csrc.build``). The installed package has neither."""
