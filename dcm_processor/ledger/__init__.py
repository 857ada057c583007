"""The ledger: the truth about studies, plans, jobs and attempts, in a SQL database."""
