"""`manage.py import_org PATH`: an org template from a folder, as the route imports it, with progress."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import Error as DatabaseFailure

from config.errors import DomainError
from orgimport import requirements, services, sources
from orgimport.reading import InvalidTemplate
from orgimport.services import Import, Mode, Outcome
from orgimport.template import OrgTemplate
from templates.loader import TemplateError

BAR = 30


class Command(BaseCommand):
    help = (
        "Imports the org template in a folder: what is there already is skipped, what is missing is created. "
        "Starts are made by the workers."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("path", metavar="PATH", help="a folder with an org.yaml, or that file")
        parser.add_argument("--dry-run", action="store_true", help="show what would happen, change nothing")
        parser.add_argument(
            "--reconcile",
            action="store_true",
            help="also remove what the template made once and declares no more; what is stored for it stays",
        )
        parser.add_argument("--parent", type=UUID, metavar="ID", help="hang the tree below this workspace")

    def handle(self, *args: Any, **given: Any) -> None:
        folder = _folder(given["path"])
        try:
            template = sources.load(folder)
            asked = Import(
                template=template,
                root=folder,
                dir=folder.name,
                actor="command-line",
                mode=Mode.RECONCILE if given["reconcile"] else Mode.MERGE,
                parent_id=given["parent"],
            )
            if given["dry_run"]:
                self._foresee(asked)
            else:
                self._report(services.import_org(asked, on_progress=self._progress), template)
        except sources.UnknownTemplate:
            raise CommandError(f"{folder} holds no org.yaml") from None
        except TemplateError as error:
            raise CommandError(str(error)) from None
        except InvalidTemplate as error:
            told = [f"{one.path or 'the template'}: {one.field}: {one.message}" for one in error.problems]
            raise CommandError("nothing was imported:\n  " + "\n  ".join(told)) from None
        except DomainError as error:
            raise CommandError("\n  ".join([error.text, *_lacking(error.fields)])) from None
        except DatabaseFailure:
            raise CommandError("the database cannot be asked; nothing was imported") from None

    def _foresee(self, asked: Import) -> None:
        foreseen = services.planned(asked)
        for one in foreseen.plan:
            self.stdout.write(f"{one['action']:<8}{one['path']}")
        for line in foreseen.errors:
            self.stdout.write(f"kept    {line}")
        for line in _lacking(requirements.missing_now(asked.template)):
            self.stdout.write(line)
        actions = Counter(one["action"] for one in foreseen.plan)
        removed = f", {actions['remove']} removed" if asked.mode == Mode.RECONCILE else ""
        self.stdout.write(
            f"{actions['create']} would be created, {actions['skip']} skipped{removed}. Nothing was changed."
        )

    def _progress(self, done: int, total: int) -> None:
        bar = "#" * (BAR * done // max(1, total))
        self.stderr.write(f"\r[{bar:<{BAR}}] {done}/{total}", ending="\n" if done >= total else "")
        self.stderr.flush()

    def _report(self, outcome: Outcome, template: OrgTemplate) -> None:
        failed = outcome.planned - len(outcome.entries)
        for entry in outcome.entries:
            action = "skipped" if entry.get("skipped") else "created"
            self.stdout.write(
                f"{action:<9}{entry['id']}  {entry['path']}  T{entry['tier']}  {entry['status']}"
            )
        for row in outcome.pruned.removed:
            self.stdout.write(f"{'removed':<9}{row.id}  {row.path}")
        for line in outcome.pruned.errors:
            self.stdout.write(f"kept     {line}")
        for warning in template.warnings:
            self.stdout.write(f"warning: {': '.join(filter(None, warning.values()))}")
        self.stdout.write(
            f"{template.name}: {outcome.created} created, {outcome.skipped} skipped, {failed} failed"
        )
        if outcome.error:
            raise CommandError(f"{outcome.error}; import it again to complete the tree")


def _folder(path: str) -> Path:
    given = Path(path)
    return (given.parent if given.name in sources.FILE_NAMES else given).absolute()


def _lacking(fields: dict[str, Any]) -> list[str]:
    """The variables that must be set first, a line each."""
    lines = [f"missing: {_named(one)}" for one in fields.get("missing_env", [])]
    for row in fields.get("missing_workspace_env", []):
        lines += [f"missing for {row['path']}: {_named(one)}" for one in row["unsatisfied_env"]]
    return lines


def _named(requirement: Any) -> str:
    return requirement if isinstance(requirement, str) else "one of " + ", ".join(requirement["any_of"])
