"""Win rates: models' answers compared in pairs by judges, per language, with honest intervals.

The parts, in the order of the story: `config` says who meets whom, `contest` names them, `planner`
what is to be made, `games` asks a judge and reads its verdict, `recorded` reads judgements of other
tools, `analysis` makes `results` of them.
"""
