"""Rates, the meter, apportionment, the ledger, reports: quantities become money here."""
