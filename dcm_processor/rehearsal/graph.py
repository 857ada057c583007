"""The plan's graph as a tree for terminals: stages, jobs in plan order, each below the last of those it waits for."""

from rich.text import Text
from rich.tree import Tree

from dcm_processor.manifest import ALL
from dcm_processor.plan import order
from dcm_processor.registry import Job, ServiceRegistry, arrows
from dcm_processor.vocabulary import Level, Stage


def tree(registry: ServiceRegistry) -> Tree:
    """Draw the jobs of a registry; the number before each is its place in the plan."""
    root = Tree(Text("plan", style="bold"))
    jobs = order(registry)
    place = {job.name: number for number, job in enumerate(jobs, 1)}
    for stage in Stage:
        of_stage = [job for job in jobs if job.settings.stage is stage]
        if not of_stage:
            continue
        branch = root.add(Text(f"stage {stage}", style="bold"))
        nodes: dict[str, Tree] = {}
        for job in of_stage:
            waits_for = sorted((name for name in registry.edges[job.name] if name in nodes), key=place.__getitem__)
            below = nodes[waits_for[-1]] if waits_for and ALL not in job.settings.depends_on else branch
            others = [] if below is branch else waits_for[:-1]
            nodes[job.name] = below.add(_line(registry, job, place[job.name], others))
    return root


def _line(registry: ServiceRegistry, job: Job, place: int, others: list[str]) -> Text:
    settings = job.settings
    text = Text(f"{place} ")
    text.append(job.name, style="dim" if settings.disabled else "bold cyan")
    remarks = [settings.priority]
    if settings.level is Level.SERIES:
        remarks.append("each series")
    if job.service != job.name:
        remarks.append(f"service {job.service}")
    if others:
        remarks.append(f"also after {', '.join(others)}")
    if ALL in settings.depends_on:
        remarks.append("after all that come before")
    text.append(f"  {' · '.join(remarks)}", style="dim")
    wrong = [f"{name} is not here" for name in settings.depends_on if name != ALL and registry.job(name) is None]
    if job.name in registry.knots:
        wrong.append(f"cycle: {arrows(registry.cycle(job.name))}")
    if later := registry.later(job):
        wrong.append(f"{later.name} is of a later stage")
    if settings.disabled:
        wrong.append("disabled")
    text.append("".join(f"  {each}" for each in wrong), style="yellow")
    return text
