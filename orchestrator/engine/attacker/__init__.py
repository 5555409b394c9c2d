"""The XGBoost attacker on Ray, for tables larger than one process."""
