"""How requests that run together share a device: one method a module, and the oracle."""
