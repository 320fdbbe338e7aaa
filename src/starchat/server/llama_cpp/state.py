"""What llama.cpp's clients ask about the server: its properties, and its slots."""

from __future__ import annotations

from typing import Any

from ... import __version__
from ...chat.template import STARCHAT
from ..errors import ApiError
from ..service import Service
from .forms import settings_of


def jinja_template() -> str:
    """Return the form of dialogues as a Jinja template, which clients show or render themselves."""
    roles, lead, end = STARCHAT.roles, STARCHAT.lead, STARCHAT.end
    turn = "{{ '<|' + message['role'] + '|>' }}"
    assert all(token == f"<|{role}|>" for role, token in roles.items())
    return (
        "{%- if not messages or messages[0]['role'] != 'system' %}"
        f"{{{{ {roles['system'] + lead + end!r} + '\\n' }}}}"
        "{%- endif %}"
        "{%- for message in messages %}"
        f"{turn}{{{{ {lead!r} + message['content'] + {end!r} + '\\n' }}}}"
        "{%- endfor %}"
        f"{{%- if add_generation_prompt %}}{{{{ {roles['assistant']!r} }}}}{{%- endif %}}"
    )


def properties(service: Service) -> dict[str, Any]:
    """Return what /props says."""
    slot = _slot(0, service, is_processing=False)
    return {
        "default_generation_settings": {**slot, "params": settings_of({}, service)},
        "total_slots": service.settings.max_running,
        "model_alias": service.name,
        "model_path": service.name,  # no path of this machine
        "chat_template": jinja_template(),
        "chat_template_caps": {},
        "modalities": {"vision": False, "audio": False},
        "bos_token": "",
        "eos_token": STARCHAT.end,
        "build_info": f"starchat {__version__}",
        "is_sleeping": False,
    }


def slots(service: Service, *, must_be_free: bool) -> list[dict[str, Any]]:
    """Return which places are taken; nothing of what is computed there.

    Raises ApiError 501 where the operator does not show them, 503 where one must be free and none
    is.
    """
    if not service.settings.slots:
        problem = "this server does not show its slots: start it with --slots"
        raise ApiError(501, problem, code="not_supported", type="not_supported_error")
    n_running, n_slots = service.admission.running, service.settings.max_running
    if must_be_free and n_running >= n_slots:
        raise ApiError.unavailable("no slot available", "overloaded")
    return [_slot(i, service, is_processing=i < n_running) for i in range(n_slots)]


def _slot(id: int, service: Service, *, is_processing: bool) -> dict[str, Any]:
    return {
        "id": id,
        "id_task": -1,
        "n_ctx": service.info.n_ctx,
        "speculative": True,
        "is_processing": is_processing,
    }
