"""Runs every check. Started by run.py, inside its virtual environment."""

import sys
import traceback

import schema_checks
import sdk_checks
from server import Server


def main() -> int:
    server = Server(*sys.argv[1:4])
    passed = failed = 0
    for module in (schema_checks, sdk_checks):
        for name, check in vars(module).items():
            if not name.startswith("check_"):
                continue
            title = f"{module.__name__.removesuffix('_checks')}: {name.removeprefix('check_').replace('_', ' ')}"
            try:
                check(server)
                passed += 1
                print(f"ok      {title}")
            except Exception as error:
                failed += 1
                print(f"FAILED  {title}")
                where = traceback.extract_tb(error.__traceback__)[-1]
                print(f"        {type(error).__name__}: {error}\n        {where.filename}:{where.lineno}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
