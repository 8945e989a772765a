"""Container images in the sandbox: who runs, where and with what, and that an image is the same before and after every task."""

from __future__ import annotations

import hashlib
import os
import pathlib
import stat
from typing import Any

import msgspec
import pytest

from tes_server import errors
from tes_server.plan.steps import Mount, MountKind
from tes_server.runner.images import Images, Options
from tes_server.runner.sandbox import SandboxEngine
from tests.contract.engine_contract import ROOTS, Lab
from tests.image_case import directory, entry, link
from tests.integration import sandbox_images
from tests.integration.sandbox_case import ROOT, SandboxCase, marks

pytestmark = marks


class ImageCase(SandboxCase):
    @pytest.fixture
    def image(self) -> str:
        return sandbox_images.NAME


def fingerprint(root: pathlib.Path) -> str:
    """Of all names, kinds, modes, owners, times, link targets and contents of a tree."""
    total = hashlib.sha256()
    for place, directories, files in os.walk(root):
        directories.sort()
        for name in (".", *sorted(directories + files)):
            path = pathlib.Path(place, name)
            found = path.lstat()
            total.update(repr((str(path), found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns, found.st_nlink)).encode())
            if stat.S_ISLNK(found.st_mode):
                total.update(os.fsencode(path.readlink()))
            elif stat.S_ISREG(found.st_mode):
                total.update(path.read_bytes())
    return total.hexdigest()


class TestTheImageIsNeverChanged(ImageCase):
    ATTEMPTS = (
        "echo x > /etc/canary",
        "rm -rf /bin /etc /home",
        "chmod 777 /etc /etc/canary; chown 5:5 /etc/canary",
        "mv /etc /etc2; mkdir /etc; echo x > /etc/canary",
        "ln /etc/canary /etc/hard; echo x > /etc/hard",
        "ln /etc/canary /work/hard",
        "dd if=/dev/zero of=/etc/canary bs=1 count=4 conv=notrunc",
        "mount -o remount,rw /; mount -o bind /work /etc",
        "touch -d 2001-01-01 /etc/canary",
        "exec 3< /etc/canary; echo x > /proc/self/fd/3; chmod 777 /proc/self/fd/3; rm /etc/canary; echo x > /proc/self/fd/3",
        "for f in /proc/*/root /proc/*/cwd; do echo x > $f/etc/canary; done",
        "cat /proc/self/mountinfo | tr ', ' '\\n' | sed -n 's/^lowerdir=//p' | tr ':' '\\n' | while read d; do echo x > $d/etc/canary; done",
    )

    @pytest.mark.parametrize("attempt", ATTEMPTS)
    def test_whatever_a_task_does(self, lab: Lab, images: Images, attempt: str) -> None:
        found = images.find(lab.image)
        assert found is not None
        before = fingerprint(found.root)
        lab.run(lab.sh(attempt))
        assert fingerprint(found.root) == before
        assert lab.check("cat /etc/canary") == "of the image\n"

    def test_a_shared_mapping_writes_to_the_tasks_own_copy(self, lab: Lab, images: Images) -> None:
        """Over this machine's programs: busybox maps nothing. /etc is the tree that all tasks of the image `host` share."""
        program = (
            "import mmap, os\n"
            "file = os.open('/etc/passwd', os.O_RDWR)\n"
            "with mmap.mmap(file, 0) as shared:\n    shared[:4] = b'evil'\n    shared.flush()\n"
            "print(open('/etc/passwd').read(4))\n"
        )
        host = msgspec.structs.replace(lab.cell("python3", "-c", program), image="host")
        assert lab.run(host).code == 0
        assert lab.engine.streams(host)[0] == "evil\n"
        again = msgspec.structs.replace(lab.cell("head", "-c", "4", "/etc/passwd"), image="host")
        lab.run(again)
        assert lab.engine.streams(again)[0] != "evil"
        assert not pathlib.Path("/etc/passwd").read_bytes().startswith(b"evil")

    def test_tasks_at_the_same_time_do_not_see_each_other(self, lab: Lab) -> None:
        cell, gate = lab.blocked(before="echo mine > /etc/canary; echo mine > /new", after="cat /etc/canary /new")
        out = lab.check("cat /etc/canary; ls /new 2>&1; ls -d /proc/[0-9]* | wc -l", volume=lab.new_volume("other"))
        assert out.startswith("of the image\n")
        assert "mine" not in out
        gate.open()
        assert lab.run(cell).code == 0
        assert lab.engine.streams(cell)[0] == "mine\nmine\n"

    def test_what_was_written_is_on_disk_and_goes_with_the_cell(self, lab: Lab, data: pathlib.Path) -> None:
        """Not in memory: 100 MB within 64 MB."""
        limits = msgspec.structs.replace(lab.cell("true").limits, ram_bytes=64 << 20)
        cell = lab.sh("dd if=/dev/zero of=/big bs=1M count=100 && mkdir -p /a/b/c && rm /etc/canary && chmod 0 /a/b /a", limits=limits)
        ended = lab.run(cell)
        assert (ended.code, ended.oom) == (0, False), lab.engine.streams(cell)
        own = data / "sandbox" / cell.name
        assert (own / "layer/upper/big").stat().st_size == 100 << 20
        lab.engine.remove(cell)
        assert not own.exists()


class TestWhatTheConfigSays(ImageCase):
    """Images that differ from NAME in their config: made for the test, of the same files."""

    @pytest.fixture
    def images(self, tmp_path: pathlib.Path) -> Images:
        return Images(tmp_path / "images", Options(), ids=sandbox_images.IDS)

    @pytest.fixture
    def image(self) -> str:
        return "tes-test/special"

    @pytest.fixture
    def engine(self, data: pathlib.Path, images: Images) -> SandboxEngine:
        return SandboxEngine(data=data, allow_host=False, network=True, images=images)

    def made(self, images: Images, *more: Any, **config: Any) -> None:
        sandbox_images.load(images, "tes-test/special", [*sandbox_images.usual(), *more], **{"Env": sandbox_images.ENV, **config})

    def test_environment_of_image_and_task(self, lab: Lab, images: Images) -> None:
        self.made(images)
        out = lab.check('echo "$PATH $FROM_IMAGE $BOTH $HOME $HOSTNAME"; hostname', env={"BOTH": "task"})
        assert out == "/bin yes task /root tes\ntes\n"

    def test_path_is_dockers_where_the_image_has_none(self, lab: Lab, images: Images) -> None:
        self.made(images, Env=[])
        assert lab.check("echo $PATH") == "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"

    def test_entrypoint_and_command_are_not_applied(self, lab: Lab, images: Images) -> None:
        self.made(images, Entrypoint=["/bin/false"], Cmd=["x"])
        cell = lab.cell("echo", "argv")
        assert lab.run(cell).code == 0
        assert lab.engine.streams(cell)[0] == "argv\n"

    def test_workdir(self, lab: Lab, images: Images) -> None:
        self.made(images, WorkingDir="/srv/app/new")
        assert lab.check("pwd; echo x > file") == "/srv/app/new\n"
        assert lab.check("pwd", workdir="/work/else") == "/work/else\n"

    def test_without_a_workdir_it_is_the_root(self, lab: Lab, images: Images) -> None:
        self.made(images)
        assert lab.check("pwd") == "/\n"

    @pytest.mark.parametrize(
        ("user", "ids", "groups", "home"),
        [
            ("", "0:0", {"0"}, "/root"),
            ("alice", "1000:100", {"100", "2000"}, "/home/alice"),
            ("1000", "1000:100", {"100", "2000"}, "/home/alice"),
            ("alice:other", "1000:2001", {"2001"}, "/home/alice"),
            ("1000:7", "1000:7", {"7"}, "/home/alice"),
            ("4321", "4321:0", {"0"}, "/"),
            ("4321:lab", "4321:2000", {"2000"}, "/"),
        ],
    )
    def test_user(self, lab: Lab, images: Images, user: str, ids: str, groups: set[str], home: str) -> None:
        self.made(images, User=user)
        out = lab.check('echo "$(id -u):$(id -g)"; id -G; echo $HOME; echo x > /work/file; echo x > /tmp/file; grep CapEff /proc/self/status')
        found, found_groups, found_home, capabilities = out.splitlines()
        assert (found, found_home) == (ids, home)
        # Supplementary groups need ids that an ordinary user does not have to give.
        assert set(found_groups.split()) - {"65534"} == (groups if ROOT else {ids.partition(":")[2]})
        assert (int(capabilities.split()[1], 16) == 0) is not ids.startswith("0:")
        assert (lab.work / "file").stat().st_uid == (200_000 + int(ids.partition(":")[0]) if ROOT else os.geteuid())

    def test_a_user_that_is_not_root_may_not_write_to_the_image(self, lab: Lab, images: Images) -> None:
        if not ROOT:
            pytest.skip("with one id everything belongs to it")
        self.made(images, User="alice")
        lab.check("! echo x > /etc/canary && ! ls /root && ! su root -c true && echo x > /home/file || true; ! kill -9 1; cat /etc/canary")
        assert lab.run(lab.sh("echo x > /etc/canary")).code != 0

    @pytest.mark.parametrize(("user", "words"), [("bob", "bob"), ("alice:nogroup", "nogroup")])
    def test_a_user_that_the_image_does_not_know(self, engine: SandboxEngine, images: Images, user: str, words: str) -> None:
        self.made(images, User=user)
        with pytest.raises(errors.EngineError, match=words) as caught:
            engine.prepare("tes-test/special")
        assert (caught.value.code, caught.value.transient) == ("IMAGE_ERROR", False)
        assert "tes-test/special" in caught.value.public

    def test_a_passwd_that_leads_out_is_the_images_own(self, engine: SandboxEngine, images: Images, tmp_path: pathlib.Path) -> None:
        secret = tmp_path / "passwd"
        secret.write_text("eve:x:0:0::/:/bin/sh\n")
        sandbox_images.load(images, "tes-test/special", [directory("etc"), link("etc/passwd", str(secret))], User="eve")
        with pytest.raises(errors.EngineError, match="eve"):
            engine.prepare("tes-test/special")

    def test_names_of_hosts(self, lab: Lab, images: Images) -> None:
        """Whatever the image has there: this one's resolv.conf is a link to nowhere."""
        self.made(images)
        assert lab.check("cat /etc/resolv.conf") == pathlib.Path("/etc/resolv.conf").read_text()
        assert "127.0.0.1\ttes\n" in lab.check("cat /etc/hosts; cat /etc/hostname")
        lab.check("echo 10.0.0.1 mine >> /etc/hosts && grep -q mine /etc/hosts && ping -c 1 -w 1 localhost > /dev/null || grep -q mine /etc/hosts")

    def test_mounts_follow_the_images_links(self, lab: Lab, images: Images) -> None:
        self.made(images, link("work", "/srv/real"), link("data", "srv"), entry("srv/there", b""))
        mounts = (Mount("/tmp"), Mount("/work"))
        assert lab.check("echo x > /work/file; cat /srv/real/file; ls /data", mounts=mounts) == "x\nreal\nthere\n"
        assert (lab.work / "file").read_text() == "x\n"

    @pytest.mark.parametrize("target", ["/oldroot/var/tmp", "../../../oldroot/tmp", "/proc/1/root/tmp", "/newroot/../tmp"])
    def test_mounts_never_follow_a_link_to_the_host(self, lab: Lab, images: Images, tmp_path: pathlib.Path, target: str) -> None:
        """bwrap would make the mount point through it, in the host's file system."""
        name = f"tes-trap-{os.getpid()}"
        self.made(images, link("work", f"{target}/{name}"))
        cell = lab.cell("true", mounts=ROOTS)
        try:
            lab.engine.start(cell)
            lab.engine.wait(cell)
        except errors.EngineError:
            pass  # it may refuse
        assert not any((pathlib.Path(place) / name).exists() for place in ("/var/tmp", "/tmp", "/"))

    @pytest.mark.parametrize(
        ("work", "mounts"),
        [
            ("/", (Mount("/work"),)),
            ("srv/file", (Mount("/work"),)),
            ("srv", (Mount("/srv/in"), Mount("/work"))),
            ("other", (Mount("/other"), Mount("/work"))),
            ("srv/in", (Mount("/srv/in"), Mount("/work/deeper"))),
        ],
    )
    def test_mounts_that_the_images_links_make_one(self, lab: Lab, images: Images, work: str, mounts: tuple[Mount, ...]) -> None:
        self.made(images, link("work", work), entry("srv/file", b""), directory("other"))
        with pytest.raises(errors.EngineError, match="cannot be mounted") as caught:
            lab.engine.start(lab.cell("true", mounts=mounts))
        assert caught.value.code == "REJECTED"

    def test_an_input_file_over_the_images_own(self, lab: Lab, images: Images) -> None:
        self.made(images, link("etc/in", "canary"))
        (lab.volume / "etc").mkdir()
        (lab.volume / "etc/in").write_text("input\n")
        assert lab.check("cat /etc/in /etc/canary", mounts=(*ROOTS, Mount("/etc/in", MountKind.FILE))) == "input\ninput\n"

    def test_set_id_programs_give_nothing(self, lab: Lab, images: Images) -> None:
        self.made(images, entry("bin/become", sandbox_images.BUSYBOX.read_bytes(), mode=0o6755), User="alice")
        assert lab.check(
            "ls -l /bin/become | cut -c1-10; cp /bin/busybox /tmp/; chmod 6755 /tmp/busybox; /tmp/busybox id -u; grep NoNewPrivs /proc/self/status"
        ).split() == [
            "-rwxr-xr-x",
            "1000",
            "NoNewPrivs:",
            "1",
        ]


class TestWhichImageRuns(ImageCase):
    @pytest.fixture
    def images(self, tmp_path: pathlib.Path) -> Images:
        return Images(tmp_path / "images", Options(), ids=sandbox_images.IDS)

    def test_what_was_prepared_runs_though_the_tag_moved(self, lab: Lab, images: Images) -> None:
        sandbox_images.load(images, sandbox_images.NAME, [*sandbox_images.usual(), entry("version", b"one\n")], Env=sandbox_images.ENV)
        digest = lab.engine.prepare(sandbox_images.NAME)
        sandbox_images.load(images, sandbox_images.NAME, [*sandbox_images.usual(), entry("version", b"two\n")], Env=sandbox_images.ENV)
        first = msgspec.structs.replace(lab.sh("cat /version"), image=digest)
        assert lab.run(first).code == 0
        assert lab.engine.streams(first)[0] == "one\n"
        assert lab.check("cat /version") == "two\n"
        assert lab.engine.prepare(sandbox_images.NAME) != digest

    def test_an_image_stays_while_a_task_runs_in_it(self, lab: Lab, images: Images) -> None:
        sandbox_images.load(images, sandbox_images.NAME, sandbox_images.usual(), Env=sandbox_images.ENV)
        cell, gate = lab.blocked()
        with pytest.raises(errors.EngineError, match="uses it"):
            images.remove(sandbox_images.NAME)
        gate.open()
        lab.run(cell)
        images.remove(sandbox_images.NAME)
        with pytest.raises(errors.EngineError, match="not in the cache") as caught:
            lab.engine.start(lab.cell("true"))
        assert caught.value.transient
