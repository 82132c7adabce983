# SPDX-License-Identifier: GPL-3.0-or-later
"""The rules of the house, held: which room may import which, what is in no file, what every form and template has."""

from __future__ import annotations

import ast
import functools
import glob
import json
import os
import re
import subprocess
import sys
import unittest

import tomostream

PACKAGE = os.path.dirname(os.path.abspath(tomostream.__file__))
#: The rooms from the ground up. Imports go downward only.
FLOORS = ("files", "programs", "acquisition", "simulator", "engine", "journal", "choices", "handoff", "report", "streaming",
          "protocols", "windows", "viewers", "wizards", "cli")
#: Below this floor nothing knows Scipion.
FIRST_WITH_SCIPION = FLOORS.index("streaming")
SCIPION = {"pyworkflow", "pwem", "tomo", "motioncorr", "aretomo", "scipion", "pwchem"}
#: Folders of one machine, of those who work on it, and names of places that only they reach.
MACHINE = re.compile(r"/(?:work|home|root|Users)/[a-z]|/tmp/(?!$)[a-z]+/|localhost:\d{4,}/", re.IGNORECASE)


#: Classes with what they are made of, and their methods.
CLASSES = re.compile(r"^class (?P<name>\w+)(?:\((?P<bases>.*)\))?:|^    def (?P<method>\w+)\(", re.MULTILINE)


@functools.cache
def sources(tests: bool = False) -> list[str]:
    """Python files of the package, by path below it."""
    found = [os.path.relpath(path, PACKAGE) for path in glob.glob(os.path.join(PACKAGE, "**", "*.py"), recursive=True)]
    return sorted(path for path in found if tests or not path.startswith("tests" + os.sep))


@functools.cache
def tree(path: str) -> ast.Module:
    with open(os.path.join(PACKAGE, path), encoding="utf-8") as file:
        return ast.parse(file.read(), path)


def imports(path: str) -> list[str]:
    """Full names of what a file imports, anywhere in it."""
    names = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


class TestSets(unittest.TestCase):
    def test_are_never_read_to_their_first_item_alone(self):
        """The query behind it would hold a lock: `streaming.rows.first_item`."""
        wrong = [path for path in sources() for node in ast.walk(tree(path))
                 if isinstance(node, ast.Attribute) and node.attr in ("getFirstItem", "selectFirst", "getDimensions")]
        self.assertEqual(wrong, [])


class TestTheTests(unittest.TestCase):
    #: What test cases are there to replace.
    THEIRS = frozenset({"setUp", "tearDown", "setUpClass", "tearDownClass", "maxDiff"})

    def test_replace_nothing_by_which_a_test_fails(self):
        """`assertEqual` of two lists calls `fail`: a helper of that name made a test of many that could not fail."""
        bases: dict[str, list[str]] = {}
        methods: list[tuple[str, str]] = []
        for path in sources(tests=True):
            with open(os.path.join(PACKAGE, path), encoding="utf-8") as file:
                for match in CLASSES.finditer(file.read() if path.startswith("tests" + os.sep) else ""):
                    if match["name"]:
                        name = match["name"]
                        bases[name] = [base.strip() for base in (match["bases"] or "").split(",")]
                    else:
                        methods.append((name, match["method"]))

        def is_case(name: str) -> bool:
            return any(base == "unittest.TestCase" or is_case(base) for base in bases.get(name, ()) if base != name)

        kept = {name for name in dir(unittest.TestCase) if not name.startswith("__")} - self.THEIRS
        self.assertIn("TestTheTests", filter(is_case, bases))
        self.assertEqual([(name, method) for name, method in methods if method in kept and is_case(name)], [])


class TestTheRooms(unittest.TestCase):
    def test_all_stand_on_a_floor(self):
        rooms = {path.split(os.sep)[0] for path in sources() if os.sep in path}
        self.assertEqual(rooms, set(FLOORS))

    def test_below_streaming_never_import_scipion(self):
        wrong = [(path, name) for path in sources() if path.split(os.sep)[0] in FLOORS[:FIRST_WITH_SCIPION]
                 for name in imports(path) if name.split(".")[0] in SCIPION]
        self.assertEqual(wrong, [])

    def test_import_downward_only(self):
        wrong = []
        for path in sources():
            floor = path.split(os.sep)[0]
            for name in imports(path) if floor in FLOORS else ():
                parts = name.split(".")
                if parts[0] == "tomostream" and parts[1:2] and parts[1] in FLOORS[FLOORS.index(floor) + 1:]:
                    wrong.append((path, name))
        self.assertEqual(wrong, [])

    def test_no_file_imports_a_star(self):
        self.assertEqual([path for path in sources() for name in imports(path) if name.endswith(".*")], [])


class TestTheSources(unittest.TestCase):
    def test_have_no_assert_because_scipion_runs_python_with_o(self):
        self.assertEqual([(path, node.lineno) for path in sources() for node in ast.walk(tree(path))
                          if isinstance(node, ast.Assert)], [])

    def test_never_sleep(self):
        self.assertEqual([(path, node.lineno) for path in sources() for node in ast.walk(tree(path))
                          if isinstance(node, ast.Attribute) and node.attr == "sleep" and path != "simulator/clock.py"], [])

    def test_take_no_deadline_from_the_clock_on_the_wall(self):
        self.assertEqual([(path, node.lineno) for path in sources() if path.split(os.sep)[0] in ("streaming", "protocols")
                          for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute) and node.attr == "time"
                          and isinstance(node.value, ast.Name) and node.value.id == "time"], [])

    def test_have_no_bare_except(self):
        self.assertEqual([(path, node.lineno) for path in sources() for node in ast.walk(tree(path))
                          if isinstance(node, ast.ExceptHandler) and node.type is None], [])

    def test_name_their_licence_in_the_first_line(self):
        wrong = []
        for path in sources(tests=True):
            with open(os.path.join(PACKAGE, path), encoding="utf-8") as file:
                if file.readline() != "# SPDX-License-Identifier: GPL-3.0-or-later\n":
                    wrong.append(path)
        self.assertEqual(wrong, [])

    def test_name_no_folder_of_a_machine(self):
        wrong = []
        for path in sources():
            with open(os.path.join(PACKAGE, path), encoding="utf-8") as file:
                wrong += [(path, match.group()) for match in MACHINE.finditer(file.read())]
        self.assertEqual(wrong, [])

    def test_have_functions_that_fit_a_screen(self):
        wrong = [(path, node.name, node.end_lineno - node.lineno + 1) for path in sources() for node in ast.walk(tree(path))
                 if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.end_lineno - node.lineno >= 75]
        self.assertEqual(wrong, [])

    def test_have_no_mutable_class_attribute(self):
        allowed = {"_possibleOutputs", "_targets", "_environments", "_processingField", "_supportedVersions", "_pathVars"}
        wrong = []
        for path in sources():
            for node in ast.walk(tree(path)):
                for line in node.body if isinstance(node, ast.ClassDef) else ():
                    if isinstance(line, ast.Assign) and isinstance(line.value, (ast.List, ast.Dict, ast.Set)):
                        names = {target.id for target in line.targets if isinstance(target, ast.Name)}
                        wrong += [(path, node.name, name) for name in names - allowed]
        self.assertEqual(wrong, [])


class TestTheForms(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        from pyworkflow.config import Config

        Config.getDomain().getProtocols()
        import tomostream.protocols as ours

        cls.protocols = {name: getattr(ours, name) for name in ours.__all__}

    def parameters(self):
        """(protocol, name, parameter) of all that a user sees."""
        for name, protocol in self.protocols.items():
            for section in protocol()._definition.iterSections():
                yield from ((name, key, param) for key, param in self.below(section))

    def below(self, group):
        from pyworkflow.protocol import params

        for key, param in group.iterParams():
            if isinstance(param, params.Line):
                yield key, param
            elif isinstance(param, params.ElementGroup):
                yield from self.below(param)
            else:
                yield key, param

    def test_every_parameter_has_a_label_and_a_help(self):
        from pyworkflow.protocol import params

        hidden = {"runName", "runMode", "hostName", "_useQueue", "_prerequisites", "_queueParams", "expertLevel",
                  "numberOfThreads", "numberOfMpi", "useGpu", "gpuList", "_objLabel", "_objComment"}
        wrong, seen = [], 0
        for protocol, name, param in self.parameters():
            if name in hidden or isinstance(param, params.LabelParam) or str(param.condition.get()) == "False":
                continue
            seen += 1
            if not param.label.get() or not self.helps(param):
                wrong.append((protocol, name))
        self.assertGreater(seen, 60)
        self.assertEqual(wrong, [])

    def test_every_key_of_every_shipped_workflow_is_a_parameter(self):
        common = {"object.className", "object.id", "object.label", "object.comment"}
        for path in glob.glob(os.path.join(PACKAGE, "workflows", "*.json.template")):
            with open(path, encoding="utf-8") as file:
                text = file.read()
            text = text[text.index("\n[") + 1:] if "\n[" in text else text
            text = re.sub(r"~([^~|\n]*)\|([^~|\n]*)\|[^~\n]*~", r"\2", text)
            for entry in json.loads(text):
                if entry["object.className"] not in self.protocols:     # of another plugin: `test_workflows` looks at them
                    continue
                protocol = self.protocols[entry["object.className"]]()
                unknown = [key for key in entry if key not in common and protocol.getParam(key) is None
                           and not hasattr(protocol, key)]
                self.assertEqual(unknown, [], f"{os.path.basename(path)} {entry['object.className']}")

    @staticmethod
    def helps(param) -> bool:
        """A line of several fields may say it once, for all of them or for one."""
        return bool(param.help.get() or any(each.help.get() for _, each in getattr(param, "iterParams", tuple)()))

    def test_labels_are_short_enough_for_the_box(self):
        self.assertEqual([name for name, protocol in self.protocols.items() if len(protocol._label) > 14], [])


class TestTheCommand(unittest.TestCase):
    HEAVY = frozenset({"numpy", "scipy", "numba", "matplotlib", "pyworkflow", "pwem", "tomo", "watchdog"})

    def modules_after(self, code: str) -> set[str]:
        code += "\nimport sys; print('\\n' + ' '.join(sorted(name.split('.')[0] for name in sys.modules)))"
        output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        return set(output.splitlines()[-1].split())

    def test_a_movie_is_checked_and_a_command_line_is_made_without_numpy(self):
        """The stand-ins of the benchmarks do so for every movie: what they cost is measured with what they stand for."""
        modules = self.modules_after("import tomostream.acquisition.movies, tomostream.programs.motioncor\n"
                                     "import tomostream.tests.standins")
        self.assertEqual(modules & {*self.HEAVY, "tifffile"}, set())

    def test_help_imports_neither_numpy_nor_scipion(self):
        code = ("from tomostream.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit as end:\n"
                "    status = end.code")
        self.assertEqual(self.modules_after(code) & self.HEAVY, set())

    def test_importing_the_package_costs_nothing(self):
        self.assertEqual(self.modules_after("import tomostream") & (self.HEAVY - {"pyworkflow", "pwem"}) - {"numpy"}, set())

    def test_status_needs_no_scipion(self):
        self.assertEqual(self.modules_after("import tomostream.journal.status, tomostream.cli.status") & SCIPION, set())


if __name__ == "__main__":
    unittest.main()
