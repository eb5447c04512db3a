"""The verbs of the command line, a file per area: what can be asked (add_verbs), and a function per verb.

A verb's function takes the parsed arguments and returns one line of result. Heavy imports wait inside.
"""
