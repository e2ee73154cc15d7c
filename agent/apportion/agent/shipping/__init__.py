"""From the node's ledger to the one that many agents share."""
