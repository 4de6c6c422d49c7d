"""The replay manager: which envs follow what, what is drawn, and how a replay is built."""
