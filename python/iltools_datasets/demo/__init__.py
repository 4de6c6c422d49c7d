"""The demo behind `iltools demo`: simulate an expert, archive it, build a store, sample it, clone it, compare."""
