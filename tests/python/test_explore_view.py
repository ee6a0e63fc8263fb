"""The explorer on a screen that nobody sees: keys in, words out."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, Static

from corpus import Corpus
from damages import Tree
from ondisk import BLOCK
from thinmeta.explore import (
    BlockPlace,
    DevicesPlace,
    Explorer,
    HomePlace,
    MappingPlace,
    OwnersPlace,
    Page,
    Place,
)
from thinmeta.explore.view import ExploreApp, Rows

Story = Callable[[ExploreApp, Pilot[None]], Awaitable[None]]


def play(
    meta: Path, story: Story, *, start: Place | None = None, size: tuple[int, int] = (100, 30)
) -> None:
    async def run() -> None:
        with Explorer(meta, name="pool") as explorer:
            app = ExploreApp(explorer, start)
            async with app.run_test(size=size) as pilot:
                await pilot.pause()
                await story(app, pilot)

    asyncio.run(run())


def words(app: ExploreApp, name: str) -> str:
    return str(app.query_one(f"#{name}", Static).content)


def place(app: ExploreApp) -> Place:
    assert app.shown is not None
    return app.shown.place


async def until(pilot: Pilot[None], claim: Callable[[], bool]) -> None:
    """Wait for a thread; the limit is a guard against a hang."""
    async with asyncio.timeout(60):
        while not claim():
            await pilot.pause(0.01)


async def say(pilot: Pilot[None], text: str) -> None:
    """Type the end of a place, in one go, and enter it."""
    pilot.app.query_one("#goto", Input).insert_text_at_cursor(text)
    await pilot.press("enter")
    await pilot.pause()


def test_following_rows_leads_down_to_the_mappings_and_back(corpus: Corpus) -> None:
    image = corpus["snap-chain"]
    tree = Tree(image.meta.read_bytes())

    async def story(app: ExploreApp, pilot: Pilot[None]) -> None:
        assert place(app) == HomePlace()
        assert "pool" in words(app, "title") and "the superblock" in words(app, "title")
        assert not app.query_one("#troubles").display
        await pilot.press("enter")  # the devices
        await pilot.pause()
        assert place(app) == DevicesPlace()
        first = next(iter(image.model.devices))
        await pilot.press("down", "enter")
        await pilot.pause()
        second = [*image.model.devices][1]
        root = tree.device_roots()[second][1]
        assert place(app) == BlockPlace(root, role="mappings", device=second)
        assert f"mappings of device {second}" in words(app, "title")
        assert first != second
        assert words(app, "bytes").startswith("0000  ")
        assert words(app, "bytes").count("\n") == 255
        facts = words(app, "facts")
        for name in ("references", "height", "checksum", "entries"):
            assert f"\n{name}" in facts
        await pilot.press("backspace")
        await pilot.pause()
        assert place(app) == DevicesPlace()
        assert app.query_one(Rows).cursor_row == 1, "where we left it"
        await pilot.press("f")
        await pilot.pause()
        assert isinstance(place(app), BlockPlace)
        await pilot.press("s")
        await pilot.pause()
        assert place(app) == HomePlace()

    play(image.meta, story, size=(150, 40))


def test_going_to_a_place_that_is_typed(corpus: Corpus) -> None:
    image = corpus["snap-chain"]
    device = next(each for each in image.model.devices.values() if each.mappings)
    block, (data, _) = next(iter(device.mappings.items()))

    async def story(app: ExploreApp, pilot: Pilot[None]) -> None:
        await pilot.press("g")
        assert app.query_one("#goto").display and app.focused is app.query_one("#goto")
        await say(pilot, "nonsense")
        assert "there is no place 'nonsense'" in words(app, "say")
        assert app.query_one("#goto").display, "to be put right"
        app.query_one("#goto", Input).value = ""
        await say(pilot, f"{device.id}:{block}")
        assert place(app) == MappingPlace(device.id, block)
        assert f"data block  {data}" in words(app, "facts")
        assert not app.query_one("#goto").display and app.query_one(Rows).has_focus
        await pilot.press("g", "escape")
        await pilot.pause()
        assert not app.query_one("#goto").display and app.query_one(Rows).has_focus
        await pilot.press("o")
        await say(pilot, str(data))
        await until(pilot, lambda: place(app) == OwnersPlace(data))
        table = app.query_one(Rows)
        rows = [[str(cell) for cell in table.get_row_at(at)] for at in range(table.row_count)]
        assert [str(device.id), str(block)] in rows
        await pilot.press("g")
        await say(pilot, "0")
        await pilot.press("enter", "x")
        await pilot.pause()
        assert place(app) == DevicesPlace() and app.query_one("#hex").display, "by the key"

    play(image.meta, story)


def test_a_search_that_takes_long_can_be_stopped(
    corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, go_on = threading.Event(), threading.Event()
    ended: list[BaseException] = []

    def slow(self: Explorer, where: Place, progress: Callable[[int, int], object] | None) -> Page:
        assert progress is not None
        progress(1, 2)
        told.set()
        go_on.wait(60)
        try:
            progress(2, 2)
        except BaseException as error:
            ended.append(error)
            raise
        raise AssertionError("it was not stopped")

    monkeypatch.setattr(Explorer, "_owners", slow)

    async def story(app: ExploreApp, pilot: Pilot[None]) -> None:
        await pilot.press("o")
        await say(pilot, "1")
        await until(pilot, told.is_set)
        await until(pilot, lambda: "50 %" in words(app, "say"))
        assert place(app) == HomePlace(), "the last page stays until there is another"
        await pilot.press("escape")
        go_on.set()
        await until(pilot, lambda: bool(ended))
        assert words(app, "say") == "stopped"
        await pilot.press("d")
        await pilot.pause()
        assert place(app) == DevicesPlace()

    play(corpus["snap-chain"].meta, story)


def test_damage_is_shown_with_its_code(corpus: Corpus, tmp_path: Path) -> None:
    content = bytearray(corpus["snap-chain"].meta.read_bytes())
    root = Tree(bytes(content)).mapping_root
    content[root * BLOCK + 100] ^= 1
    meta = tmp_path / "meta [bold].img"
    meta.write_bytes(content)

    async def story(app: ExploreApp, pilot: Pilot[None]) -> None:
        assert "node-damaged (fatal)" in words(app, "troubles")
        assert "fits no kind" in words(app, "facts")
        assert app.query_one("#troubles").display
        await pilot.press("d")
        await pilot.pause()
        assert f"node-damaged (fatal): block {root}" in words(app, "troubles")
        await pilot.press("g")
        await say(pilot, "data 1")
        await until(pilot, lambda: isinstance(place(app), OwnersPlace))
        assert "node-damaged" in words(app, "troubles")
        # Put right meanwhile: it is read again.
        await pilot.press("backspace", "backspace")
        await pilot.pause()
        content[root * BLOCK + 100] ^= 1
        meta.write_bytes(content)
        await pilot.press("r")
        await pilot.pause()
        assert isinstance(place(app), BlockPlace) and not app.query_one("#troubles").display

    play(meta, story, start=BlockPlace(root))


def test_long_tables_go_on_at_their_last_row(corpus: Corpus) -> None:
    async def story(app: ExploreApp, pilot: Pilot[None]) -> None:
        table = app.query_one(Rows)
        assert table.row_count == 201
        await pilot.press("ctrl+end", "enter")
        await pilot.pause()
        assert isinstance(place(app), DevicesPlace) and place(app) != DevicesPlace()
        assert table.row_count == len(corpus["snaps-300"].model.devices) - 200

    play(corpus["snaps-300"].meta, story, start=DevicesPlace())


@pytest.mark.parametrize("size", [(80, 24), (40, 10), (140, 24)])
def test_it_fits_any_terminal(corpus: Corpus, size: tuple[int, int]) -> None:
    async def story(app: ExploreApp, pilot: Pilot[None]) -> None:
        table = app.query_one(Rows)
        for _ in range(2):
            assert table.size.height >= 1
            assert table.region.right <= size[0] and table.region.bottom <= size[1]
            assert app.query_one("#hex").display == (size[0] >= 140)
            await pilot.press("down", "enter")
            await pilot.pause()

    play(corpus["snap-chain"].meta, story, size=size)


@pytest.mark.parametrize(("size", "beside"), [((140, 24), True), ((100, 40), False)])
def test_the_bytes_are_beside_the_table_or_below(
    corpus: Corpus, size: tuple[int, int], beside: bool
) -> None:
    async def story(app: ExploreApp, pilot: Pilot[None]) -> None:
        left, pane = app.query_one("#left").region, app.query_one("#hex").region
        assert (pane.y == left.y, pane.y == left.bottom) == (beside, not beside)
        assert pane.height >= 10 and pane.bottom <= size[1]

    play(corpus["snap-chain"].meta, story, size=size)


def test_names_cannot_speak_to_the_terminal(corpus: Corpus) -> None:
    async def run() -> None:
        with Explorer(corpus["empty"].meta, name="\x1b]0;evil\x07[red]x[/]") as explorer:
            app = ExploreApp(explorer)
            async with app.run_test() as pilot:
                await pilot.pause()
                assert words(app, "title").startswith("?]0;evil?[red]x[/]")

    asyncio.run(run())
