"""From worker to aggregator: samples, shared tables, and the ledger of what was taken."""
