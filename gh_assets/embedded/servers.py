"""The three embedded servers: their commands, and the location of their data in the home."""

import hashlib
import json
import secrets
import sys
import sysconfig
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

from gh_assets.embedded.certificate import home_certificate
from gh_assets.embedded.supervision import ServerSpec, ensure_running
from gh_assets.errors import ConfigurationError
from gh_assets.local.home import make_private, open_home
from gh_assets.local.locks import create_once


@dataclass(frozen=True)
class HomeWorld:
    """What a home without tokens collects from: a world of the GitHub stand-in, or GH Archive.

    Parameters
    ----------
    stars : str or None
        Path of a ``repo, login`` table (Parquet or CSV); None for the synthetic world.
    awesome : tuple of str
        Markdown files that are served as lists; if empty, a generated list names all repositories.
    seed : int
        Seed of the synthetic world.
    archive : bool
        Whether there is no stand-in, and repositories and stars come from hours of GH Archive.
    """

    stars: str | None = None
    awesome: tuple[str, ...] = ()
    seed: int = 0
    archive: bool = False


def mongo_uri(home: Path) -> str:
    """Return the connection string of the embedded MongoDB, which is started if needed.

    The server accepts only TLS connections with the home's certificate.
    """
    run = make_private(open_home(home) / "run")
    # An explicit, empty configuration file keeps the server from reading one in its default locations.
    configuration = run / "mongo.toml"
    create_once(configuration, b"")
    pair, certificate = home_certificate(home)
    program = Path(sysconfig.get_path("scripts")) / "secantusd-py"
    if not program.exists():
        raise ConfigurationError(
            "This installation has no embedded MongoDB (SecantusDB). Set MONGO_URI to a MongoDB of your own."
        )
    command: tuple[str, ...] = (str(program), "--host", "127.0.0.1", "--port", "{port}", "--config", str(configuration))
    command += ("--storage-path", str(home / "mongo"), "--sync-on-commit", "--log-level", "ERROR")
    command += ("--cache-size", "256M", "--tls-cert-file", str(pair), "--tls-key-file", str(pair))
    command += ("--tls-ca-file", str(certificate), "--tls-require-client-cert")
    port = ensure_running(ServerSpec("mongo", "MongoDB (SecantusDB)", command), home)
    return mongo_uri_at(home, port)


def mongo_uri_at(home: Path, port: int) -> str:
    """Return the connection string of a home's embedded MongoDB at a port."""
    pair, certificate = home_certificate(home)
    options = {"directConnection": "true", "tls": "true", "tlsCAFile": certificate, "tlsCertificateKeyFile": pair}
    return f"mongodb://127.0.0.1:{port}/?{urlencode(options, quote_via=quote, safe='')}"


def cloud_storage(home: Path) -> tuple[str, str]:
    """Return base address and bearer token of the embedded Cloud Storage, which is started if needed."""
    token = make_private(open_home(home) / "run") / "bucket-token"
    secret = create_once(token, secrets.token_hex(32).encode()).decode().strip()
    command: tuple[str, ...] = (sys.executable, "-m", "gh_assets.embedded.bucket", "--fd", "{fd}")
    command += ("--folder", str(home / "bucket"), "--old-folder", str(home / "gcs"), "--token-file", str(token))
    port = ensure_running(ServerSpec("bucket", "Cloud Storage", command), home)
    return f"http://127.0.0.1:{port}", secret


def github_standin(home: Path) -> tuple[str, str]:
    """Return base address and token of the home's GitHub stand-in, which is started if needed."""
    world = read_world(home)
    if world.archive:
        raise ConfigurationError(
            "This home holds the stars of GH Archive and has no GitHub server: set GITHUB_TOKENS, or use the source "
            "gharchive."
        )
    token = create_once(home / "run" / "standin-token", f"standin_{secrets.token_hex(16)}".encode()).decode().strip()
    identity = json.dumps(asdict(world), sort_keys=True) + _content_stamp(world)
    key = "github-" + hashlib.sha256(identity.encode()).hexdigest()[:12]
    command = [sys.executable, "-m", "gh_assets.embedded.standin", "--fd", "{fd}"]
    command += ["--token-file", str(home / "run" / "standin-token"), "--seed", str(world.seed)]
    if world.stars is not None:
        command += ["--stars", world.stars]
    for path in world.awesome:
        command += ["--awesome", path]
    port = ensure_running(ServerSpec(key, "GitHub stand-in", tuple(command)), home)
    return f"http://127.0.0.1:{port}", token


def read_world(home: Path) -> HomeWorld:
    """Return the world that the home has chosen, by default the synthetic one."""
    path = open_home(home) / "world.json"
    try:
        chosen = json.loads(path.read_text(encoding="utf-8"))
        archive = bool(chosen.get("archive", False))
        return HomeWorld(chosen["stars"], tuple(chosen["awesome"]), int(chosen["seed"]), archive)
    except FileNotFoundError:
        return HomeWorld()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"{path} does not describe a world ({error!r}): delete it, or run again with --stars."
        ) from error


def choose_world(home: Path, world: HomeWorld) -> None:
    """Choose the world that the home's stand-in serves from now on."""
    open_home(home)
    draft = home / "world.json.new"
    draft.write_text(json.dumps(asdict(world)), encoding="utf-8")
    draft.replace(home / "world.json")


def _content_stamp(world: HomeWorld) -> str:
    """Return sizes and times of the world's files, so that a changed file gets a new stand-in."""
    paths = [*([world.stars] if world.stars else []), *world.awesome]
    stamps = []
    for path in paths:
        try:
            status = Path(path).stat()
        except OSError as error:
            raise ConfigurationError(
                f"{path}, a file of this home's world, cannot be read: {error.strerror}."
            ) from error
        stamps.append(f"{status.st_size}:{status.st_mtime_ns}")
    return ",".join(stamps)
