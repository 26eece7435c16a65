"""Status machines: a table of legal moves and the one conditional `UPDATE ... RETURNING` that makes them."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from django.db import connections
from django.db.models import Case, F, Model, QuerySet, When
from django.db.models.functions import Now
from django.db.models.sql.subqueries import UpdateQuery

M = TypeVar("M", bound=Model)


def update_returning(rows: QuerySet[M], **changes: Any) -> list[M]:
    """`rows.update(**changes)` that also returns the changed rows as now stored.

    Raises ValueError for a filter that joins or is sliced: PostgreSQL does not re-check a subquery after
    waiting for a
    row lock, so both of two racers would win.
    """
    if rows.query.is_sliced or rows.query.count_active_tables() > 1:
        raise ValueError("filter on the updated table only: a join hides the guard from concurrent changes")
    query = cast(UpdateQuery, rows.query.chain(UpdateQuery))
    query.add_update_values(changes)
    sql, params = query.get_compiler(rows.db).as_sql()
    # By name: a prepared `RETURNING *` fails as soon as a newer release has added a column.
    quoted = connections[rows.db].ops.quote_name
    names = ", ".join(quoted(cast(str, one.column)) for one in rows.model._meta.concrete_fields)
    return list(rows.model._base_manager.using(rows.db).raw(f"{sql} RETURNING {names}", params))


@dataclass(frozen=True)
class StateMachine:
    """`sources[target]` is the set of statuses from which `target` may be reached;
    `stamp` is the column that says since when.
    """

    sources: Mapping[str, Set[str]]
    stamp: str = "status_changed_at"

    def move(self, rows: QuerySet[M], target: str, **changes: Any) -> list[M]:
        """Move those of `rows` that may become `target`. Empty: race lost, illegal or gone; emit nothing.

        The stamp moves exactly when the status does.
        """
        legal = rows.filter(status__in=self.sources[target])
        since = Case(When(status=target, then=F(self.stamp)), default=Now())
        return update_returning(legal, status=target, **{self.stamp: since}, **changes)
