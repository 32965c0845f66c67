"""Profiles are read from YAML, and each fault is named with file, line and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.profiles.places import ProfileRefused
from infra.profiles.read import read_folder, read_with_bundles
from infra.wire.agents.bundle import unpack
from infra.wire.agents.part import FOLDER_PATH
from infra.wire.agents.profile import AgentProfile, SystemPrompt, decode_profile

HOW_TO = "---\ndescription: D.\n---\nHow to."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def faults(folder: Path, **files: str) -> list[str]:
    """What is wrong with these files, without the folder in front."""
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    with pytest.raises(ProfileRefused) as refused:
        read_folder(folder)
    return [fault.replace(f"{folder}/", "") for fault in refused.value.faults]


def test_a_file_is_an_agent(folder: Path) -> None:
    (folder / "reviewer.yaml").write_text(
        "description: Reads patches.\n"
        "system_prompt: You review.\n"
        "tools: [Read, Grep]\n"
        "models: [claude-opus-4.5, claude-haiku-4.5]\n"
        "sub_agents:\n"
        "  finder:\n"
        "    description: Finds files.\n"
        "    prompt: Find.\n"
        "    model: haiku\n"
        "environment: {LANG: C.UTF-8}\n"
    )
    (folder / "notes.txt").write_text("not an agent")
    [(name, profile)] = read_folder(folder).items()
    assert name == "reviewer"
    assert profile.system_prompt == SystemPrompt(text="You review.")
    assert profile.tools == ("Read", "Grep")
    assert profile.sub_agents["finder"].model == "haiku"
    assert profile.environment == {"LANG": "C.UTF-8"}


def test_no_folder_is_no_agents(folder: Path) -> None:
    assert read_folder(folder / "none") == {}


def test_an_heir_says_only_what_differs(folder: Path) -> None:
    (folder / "base.yaml").write_text(
        "description: Base.\ntools: [Bash, Read]\nenvironment: {A: a, B: b}\n"
    )
    (folder / "heir.yaml").write_text("extends: base\ntools: [Read]\nenvironment: {B: other}\n")
    heir = read_folder(folder)["heir"]
    assert (heir.description, heir.tools) == ("Base.", ("Read",))
    assert heir.environment == {"A": "a", "B": "other"}


@pytest.mark.parametrize(
    ("base", "heir", "prompt"),
    [
        ("{file: p.md}", "{text: mine}", SystemPrompt(text="mine")),
        ("{file: p.md, mode: append}", "mine", SystemPrompt(text="mine", mode="append")),
        ("theirs", "{file: p.md}", SystemPrompt(text="from a file")),
        ("theirs", "{mode: append}", SystemPrompt(text="theirs", mode="append")),
    ],
)
def test_an_heirs_prompt_replaces_the_other_form_of_it(
    folder: Path, base: str, heir: str, prompt: SystemPrompt
) -> None:
    (folder / "p.md").write_text("from a file")
    (folder / "base.yaml").write_text(f"system_prompt: {base}\n")
    (folder / "heir.yaml").write_text(f"extends: base\nsystem_prompt: {heir}\n")
    assert read_folder(folder)["heir"].system_prompt == prompt


def test_a_file_with_an_odd_name_is_a_fault(folder: Path) -> None:
    assert faults(folder, odd='system_prompt: {file: "a\\0b"}\n') == [
        "odd.yaml:1: system_prompt.file: must be a file's name"
    ]


def test_a_prompt_may_be_a_file_beside_it(folder: Path) -> None:
    (folder / "prompts").mkdir()
    (folder / "prompts" / "long.md").write_text("# Be thorough\n")
    (folder / "a.yaml").write_text("system_prompt: {file: prompts/long.md, mode: append}\n")
    assert read_folder(folder)["a"].system_prompt == SystemPrompt(
        text="# Be thorough\n", mode="append"
    )


def test_each_fault_has_its_place(folder: Path) -> None:
    found = faults(
        folder,
        typo="descripton: x\n",
        tool="tools:\n  - Bash\n  - no tool\n",
        heir="extends: tool\n",
        model="models: [a]\nmodel: b\n",
        variable="description: x\nenvironment:\n  LD_PRELOAD: x\n",
        form="tools: [\n",
        list="- a\n",
        twice="description: a\ndescription: b\n",
        lost="extends: nobody\n",
        round="extends: trip\n",
        trip="extends: round\n",
        alias="a: &x 1\nb: *x\n",
        tagged="description: !!python/object/apply:os.getcwd []\n",
    )
    assert [fault for fault in found if "tool.yaml" in fault] == [
        "tool.yaml:3: tools.1: String should match pattern '^[A-Za-z][A-Za-z0-9_]{0,63}$'"
    ]
    for fault in (
        "typo.yaml:1: descripton: is not a field of an agent",
        "model.yaml:2: model: is not one of `models`",
        "variable.yaml:3: environment.LD_PRELOAD: this variable is the service's own",
        "list.yaml:1: must be a mapping (`field: value`)",
        "twice.yaml:2: `description` stands here twice",
        "lost.yaml:1: extends: there is no agent 'nobody' here",
        "round.yaml:1: extends: trip -> round -> trip is a circle",
        "alias.yaml: aliases (`*name`) are not supported",
    ):
        assert fault in found
    assert any(fault.startswith("form.yaml:2: ") for fault in found)
    assert any(fault.startswith("tagged.yaml:1: ") for fault in found)


def test_a_prompt_outside_the_folder_is_not_read(folder: Path) -> None:
    (folder / "own").mkdir()
    (folder / "secret.txt").write_text("do not tell")
    (folder / "own" / "link.md").symlink_to(folder / "secret.txt")
    for i, file in enumerate(("../secret.txt", "link.md", str(folder / "secret.txt"))):
        path = folder / "own" / f"a{i}.yaml"
        path.write_text(f"system_prompt: {{file: {file}}}\n")
        with pytest.raises(ProfileRefused, match="outside the agents' folder"):
            read_folder(folder / "own")
        path.unlink()


def test_a_name_that_is_none(folder: Path) -> None:
    (folder / "No Name.yaml").write_text("description: x\n")
    with pytest.raises(ProfileRefused, match="an agent's name has small letters"):
        read_folder(folder)


def test_a_digest_names_a_version() -> None:
    one = AgentProfile(description="x", environment={"A": "1", "B": "2"})
    same = AgentProfile(environment={"B": "2", "A": "1"}, description="x")
    other = AgentProfile(description="y")
    assert one.digest == same.digest != other.digest
    assert decode_profile(one.model_dump_json(exclude_defaults=True).encode()).digest == one.digest


def with_files(folder: Path) -> None:
    for name, text in (
        ("own/pdf/SKILL.md", HOW_TO),
        ("start/README.md", "Read me."),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def test_skills_and_files_are_part_of_the_version(folder: Path) -> None:
    with_files(folder)
    (folder / "a.yaml").write_text("skills: [own/pdf]\nworkspace: start\n")
    (folder / "b.yaml").write_text("extends: a\nworkspace: null\n")
    read = read_with_bundles(folder)
    a, b = read.profiles["a"], read.profiles["b"]
    assert a.skill_names == b.skill_names == ("pdf",)
    assert a.bundle is not None
    assert b.bundle is not None
    assert set(unpack(read.bundles[a.bundle])) == {"skills/pdf/SKILL.md", "workspace/README.md"}
    assert set(unpack(read.bundles[b.bundle])) == {"skills/pdf/SKILL.md"}
    (folder / "start" / "README.md").write_text("Read me again.")
    assert read_folder(folder)["a"].digest != a.digest
    assert read_folder(folder)["b"].digest == b.digest


def test_faults_of_skills_and_files_are_named_with_their_line(folder: Path) -> None:
    with_files(folder)
    (folder / "lone").mkdir()
    (folder / "lone" / "notes.txt").touch()
    assert faults(
        folder,
        a="description: A.\nskills:\n  - own/pdf\n  - lone\n",
        b="workspace: none\n",
        c="skills: [own/pdf]\nworkspace: ../else\n",
        d="description: D.\nbundle: 00\n",
        e="skills: own\n",
        f="workspace: /etc\n",
    ) == [
        "a.yaml:4: skills.1: skills/lone: has no SKILL.md",
        "b.yaml:1: workspace: none: No such file or directory",
        "c.yaml:2: workspace: ../else: must be a folder of the agents' folder",
        "d.yaml:2: bundle: is not a field of an agent",
        "e.yaml:1: skills: Input should be a valid tuple",
        f"f.yaml:1: workspace: String should match pattern '{FOLDER_PATH}'",
    ]


def test_bundles_of_a_folder_have_one_bound(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.profiles.read.BUNDLES_MAX_BYTES", 5000)
    with_files(folder)
    assert "skills and workspaces of more than" in faults(folder, a="workspace: start\n")[0]


@pytest.mark.parametrize(
    ("server", "place", "fault"),
    [
        ("{}", "a", "give `url` or `command`"),
        ("{url: 'http://a/', command: b}", "a", "give `url` or `command`"),
        ("{command: b, headers: {A: b}}", "a", "`headers` are for"),
        ("{url: 'http://a/', env: {A: b}}", "a", "`args` and `env` are for"),
        ("{command: b, env: {LD_PRELOAD: x}}", "a.env.LD_PRELOAD", "the service's own"),
        ("{url: 'http://a/', headers: {A: '${caller:low}'}}", "a.headers.A", "names no secret"),
        ("{url: 'http://a/', headers: {A: '${X'}}", "a.headers.A", "`${X` names no secret"),
    ],
)
def test_a_server_is_over_http_or_a_program(
    folder: Path, server: str, place: str, fault: str
) -> None:
    (told,) = faults(folder, agent=f"mcp_servers:\n  a: {server}\n")
    assert told.startswith(f"agent.yaml:2: mcp_servers.{place}: ")
    assert fault in told


def test_an_agent_asks_for_so_many_secrets_of_its_caller(folder: Path) -> None:
    headers = ", ".join(f"A{n}: '${{caller:N{n}}}'" for n in range(17))
    server = f"{{url: 'http://a/', headers: {{{headers}}}}}"
    (told,) = faults(folder, agent=f"mcp_servers:\n  a: {server}\n")
    assert "more than 16 secrets" in told


def test_rules_of_permissions_are_checked(folder: Path) -> None:
    (found,) = faults(folder, a="permissions:\n  ask: [Bash]\n  deny:\n    - Task(x)\n")
    assert found.startswith("a.yaml:4")
    assert "permissions.deny" in found
    assert "only Bash, WebFetch and Read" in found
    many = ", ".join(f"T{n}" for n in range(201))
    assert "more than 200 rules" in faults(folder, a=f"permissions: {{deny: [{many}]}}")[0]
    for wrong in ("[1]", "['Bash(']", "[WebFetch(example.com)]", "['a b']"):
        assert "permissions.ask" in faults(folder, a=f"permissions: {{ask: {wrong}}}")[0]


def test_faults_of_containers_are_named_and_packages_have_advice(folder: Path) -> None:
    told = faults(
        folder,
        a="packages: [pandas]\n",
        b="container:\n  memory_mb: 12\n  gpus: 1\n",
        c="image: Not An Image\n",
        d="workspace_max_mb: 0\n",
    )
    assert [fault.partition(": ")[0] for fault in told] == [
        "a.yaml:1", "b.yaml:2", "b.yaml:3", "c.yaml:1", "d.yaml:1"
    ]  # fmt: skip
    assert "build an image with them" in told[0]
    assert "container.gpus: is not a field of an agent" in told[2]
