"""Reading with a memory: who is registered and up to where (FORMAT.md §7), what is in flight, late, failed or given up.

`consumer` is what programs hold, `roster` hands it out, `delivery` decides what comes next, `cursor` is the file.
"""
