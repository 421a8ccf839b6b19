"""Examples that use the package as any user would. A package, so that no other `examples` is found first."""
