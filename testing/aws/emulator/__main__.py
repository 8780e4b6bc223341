"""python -m emulator --address-file FILE [options]: see `options`, or README.md."""

import gc
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

# A third of the time until the emulator serves would go into looking for garbage among what is being imported.
gc.disable()
# Before moto is imported: it must not find an account or a profile of the developer's.
for name in [name for name in os.environ if name.startswith("AWS_")]:
    del os.environ[name]
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
os.environ.setdefault("MOTO_MAX_FORM_MEMORY_SIZE", str(256 * 1024 * 1024))

from emulator import options  # noqa: E402  (what follows imports moto, and may take its time)
from emulator.options import Options  # noqa: E402
from emulator.timers import in_background  # noqa: E402

# Is told the address, and says how to end what was started for it.
Complete = Callable[[str], Callable[[], None]]


def main() -> int:
    chosen = options.parse()
    from emulator.lifetime import End, write_address
    from emulator.server import bind

    end = End(watch_stdin=not chosen.keep_running)
    application, complete = plain() if chosen.plain else emulator(chosen)
    server = bind(chosen.port, application)
    address = f"127.0.0.1:{server.server_port}"
    in_background(lambda: server.serve_forever(0.1), "server")
    close = complete(address)
    if chosen.address_file is not None:
        write_address(chosen.address_file, address)
    if chosen.verbose or chosen.address_file is None:
        print(f"serving on http://{address}", file=sys.stderr, flush=True)
    end.wait()
    close()
    sys.stderr.flush()
    os._exit(0)  # long polls may still sleep on their threads, and nothing of theirs is worth waiting for


def plain() -> tuple[Any, Complete]:
    """moto as its authors wrote it, and one path more that says that it is there."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

    from emulator import answers

    moto = DomainDispatcherApplication(create_backend_app)

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] != "/harness/ready":
            return moto(environ, start_response)
        status, headers, body = answers.plain_json({"ready": True})
        start_response(answers.status_line(status), headers)
        return [body]

    return application, lambda _: lambda: None


def emulator(chosen: Options) -> tuple[Any, Complete]:
    """EC2 and SSM take as long to load as all the rest: that is done while queues and buckets are already served."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

    from emulator import principals, sqs, sqs_rules
    from emulator.faults import Faults
    from emulator.front import Front
    from emulator.journal import Journal

    faults, journal = Faults(chosen.seed), Journal()
    principals.install()
    sqs.install(faults.take_duplicate)
    sqs_rules.install(chosen.fast_recreate)
    front = Front(DomainDispatcherApplication(create_backend_app), faults, journal, chosen.verbose)

    def complete(address: str) -> Callable[[], None]:
        worlds: list[Any] = []

        def load() -> None:
            try:
                from emulator.world import World

                worlds.append(World(chosen, address, front, faults, journal))
                front.complete(worlds[0].harness.answer)
                gc.freeze()
                gc.enable()
            except Exception:
                traceback.print_exc(file=sys.stderr)
                os._exit(1)  # half an emulator would only make tests fail in riddles

        in_background(load, "load")

        def close() -> None:
            for world in worlds:
                world.close()

        return close

    return front, complete


if __name__ == "__main__":
    sys.exit(main())
