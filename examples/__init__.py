"""Examples that use the package as a user would. As a package, it is found before any other `examples`."""
