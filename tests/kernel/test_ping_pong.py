"""One pool, changed by us and by the kernel in turns, for as long as it is asked for."""

from random import Random

import pytest

from kernel.agree import kernel_agrees, metadata_agrees
from kernel.disks import Disks
from kernel.guest import say
from kernel.player import Player
from kernel.rounds import ROUNDS, SEED
from kernel.sides import KernelSide, OurSide

MAX_METADATA_BLOCKS, MAX_DATA_BLOCKS = 4096, 2048


@pytest.mark.parametrize("seed", [SEED], ids=[f"seed-{SEED}"])
@pytest.mark.parametrize(
    ("made_by", "rounds"),
    [("us", ROUNDS), ("kernel", ROUNDS // 4)],
    ids=["made-by-us", "made-by-the-kernel"],
)
def test_a_pool_goes_back_and_forth(disks: Disks, made_by: str, rounds: int, seed: int) -> None:
    match = PingPong(disks, Random(f"{made_by} {seed}"))
    if made_by == "us":
        with disks.make_pool():
            pass
    else:
        with disks.live_pool():
            pass
    for number in range(rounds):
        say({"round": number})  # whoever waits outside sees that it goes on
        match.our_turn()
        match.turn_of_the_kernel()
    with disks.live_pool() as live:
        kernel_agrees(match.world, live)


class PingPong:
    def __init__(self, disks: Disks, rng: Random) -> None:
        self.disks, self.rng = disks, rng
        self.world = disks.world()
        self.player = Player(self.world, rng)

    def our_turn(self) -> None:
        grown = self._grow_devices()
        with self.disks.open_pool() as pool, OurSide(pool, self.disks.data) as side:
            self.player.play(side, steps=self.rng.randint(0, 10))
            if grown:
                side.grow(
                    metadata_blocks=self.disks.metadata_blocks, data_blocks=self.disks.data_blocks
                )
                self._grow_world()
            self.player.play(side, steps=self.rng.randint(1, 40))
        metadata_agrees(self.world, self.disks.metadata)

    def turn_of_the_kernel(self) -> None:
        if self._grow_devices():  # it takes all that there is, unasked
            self._grow_world()
        with self.disks.live_pool() as live:
            kernel_agrees(self.world, live)
            self.player.play(KernelSide(live), steps=self.rng.randint(1, 40))
        metadata_agrees(self.world, self.disks.metadata)

    def _grow_devices(self) -> bool:
        if self.rng.random() > 0.2:
            return False
        metadata_blocks = self.disks.metadata_blocks + self.rng.randrange(500)
        data_blocks = self.disks.data_blocks + self.rng.randrange(300)
        self.disks.grow(
            metadata_blocks=min(metadata_blocks, MAX_METADATA_BLOCKS),
            data_blocks=min(data_blocks, MAX_DATA_BLOCKS),
        )
        return True

    def _grow_world(self) -> None:
        self.world.metadata_blocks = self.disks.metadata_blocks
        self.world.data_blocks = self.disks.data_blocks
