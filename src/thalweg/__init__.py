"""thalweg: show what stands between an optimiser and a low cost.

    import thalweg as tw

    objective = tw.ModelObjective(model, torch.nn.CrossEntropyLoss(), (x, y))
    line = tw.Line(objective.space.flatten(start), objective.space.flatten(model))
    profile = tw.profile(objective, line, tw.Uniform(-0.5, 1.5, 51))
    tw.greatest_climb(profile)
    tw.draw(profile, "profile.pdf")

The names are listed in `__init__.pyi`; each is imported when it is first used, so that
`import thalweg` and the command line stay fast and light.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
