"""How near each method comes to the oracle and to measured curves, and a gate on both."""
