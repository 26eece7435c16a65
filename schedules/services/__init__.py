"""The verbs over schedules: making them, the scheduler's tick, a run and its outcome, by subject."""

from schedules.services.claiming import tick
from schedules.services.crud import create_schedule, delete_schedule, update_schedule
from schedules.services.declared import Declared, Planted, plant_schedules, refresh_schedules
from schedules.services.firing import fire
from schedules.services.removal import stop_with_workspaces

__all__ = [
    "Declared",
    "Planted",
    "create_schedule",
    "delete_schedule",
    "fire",
    "plant_schedules",
    "refresh_schedules",
    "stop_with_workspaces",
    "tick",
    "update_schedule",
]
