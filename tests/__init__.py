"""The test suite; a package, so that equal file names in different folders do not clash and ``middleware`` means the real one."""
