"""Study of the moves: does one person age as people do, is a stack one brain, what are markers for?"""
