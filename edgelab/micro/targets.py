"""Microcontroller boards: what memory they have, by their makers' own documents.

Memory is in bytes, and their makers' "KB", "kB", "Kbyte" and "MB" are powers of two. `ram` is all static memory that
the processor can hold data in, `block` the largest part of it with consecutive addresses: a tensor arena is one array
and has to fit in there. `flash` is what a program can be stored in, on the chip or beside it on the board. External RAM
is left out. What a boot loader, a radio stack or an operating system takes of both is not in these figures.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgelab.errors import EdgelabError

KIB, MIB = 2**10, 2**20


@dataclass(frozen=True)
class Board:
    """One board. `extras` are units that help with int8; `measured_as` is its name in `edgelab.boards`, if any."""

    name: str
    chip: str
    core: str
    mhz: int
    ram: int
    block: int
    flash: int
    extras: str
    source: str
    url: str
    bits: int = 32
    measured_as: str = ""


ST = "https://www.st.com/resource/en/datasheet/"
BOARDS = (
    Board(
        "Arduino UNO R3",
        "ATmega328P",
        "AVR",
        16,
        2 * KIB,
        2 * KIB,
        32 * KIB,
        "none",
        "Arduino, UNO R3 documentation, Tech Specs: Memory (2 KB SRAM, 32 KB flash)",
        "https://docs.arduino.cc/hardware/uno-rev3/",
        bits=8,
    ),
    Board(
        "Arduino UNO R4 Minima",
        "Renesas RA4M1",
        "Cortex-M4F",
        48,
        32 * KIB,
        32 * KIB,
        256 * KIB,
        "DSP, FPU",
        "Arduino, UNO R4 Minima documentation, Tech Specs: Memory (256 kB flash, 32 kB RAM)",
        "https://docs.arduino.cc/hardware/uno-r4-minima/",
    ),
    Board(
        "BBC micro:bit V2",
        "nRF52833",
        "Cortex-M4F",
        64,
        128 * KIB,
        128 * KIB,
        512 * KIB,
        "DSP, FPU",
        "Nordic Semiconductor, nRF52833 Product Specification, Memory (512 kB flash, 128 kB RAM)",
        "https://docs.nordicsemi.com/bundle/ps_nrf52833/page/memory.html",
    ),
    Board(
        "Arduino Nano 33 BLE Sense",
        "nRF52840",
        "Cortex-M4F",
        64,
        256 * KIB,
        256 * KIB,
        1 * MIB,
        "DSP, FPU",
        "Arduino, Nano 33 BLE Sense documentation, Tech Specs: Memory (256 KB SRAM, 1MB flash)",
        "https://docs.arduino.cc/hardware/nano-33-ble-sense/",
    ),
    Board(
        "Raspberry Pi Pico",
        "RP2040",
        "2 x Cortex-M0+",
        133,
        264 * KIB,
        264 * KIB,
        2 * MIB,
        "none",
        "Raspberry Pi documentation, Pico-series, Raspberry Pi Pico: Key features (264 kB of SRAM, 2 MB of flash)",
        "https://www.raspberrypi.com/documentation/microcontrollers/pico-series.html",
    ),
    Board(
        "Raspberry Pi Pico 2",
        "RP2350",
        "2 x Cortex-M33",
        150,
        520 * KIB,
        520 * KIB,
        4 * MIB,
        "DSP, FPU",
        "Raspberry Pi documentation, Pico-series, Raspberry Pi Pico 2: Key features (520 kB of SRAM, 4 MB of flash)",
        "https://www.raspberrypi.com/documentation/microcontrollers/pico-series.html",
    ),
    Board(
        "ESP32-S3-DevKitC-1-N8",
        "ESP32-S3",
        "2 x Xtensa LX7",
        240,
        512 * KIB,
        416 * KIB,
        8 * MIB,
        "vector, FPU",
        "Espressif, ESP32-S3 Technical Reference Manual, System and Memory (SRAM0 32, SRAM1 416, SRAM2 64 KB); "
        "flash: ESP32-S3-DevKitC-1 user guide, Ordering Information (8 MB)",
        "https://docs.espressif.com/projects/esp-dev-kits/en/latest/esp32s3/esp32-s3-devkitc-1/user_guide_v1.1.html",
    ),
    Board(
        "NUCLEO-L4R5ZI",
        "STM32L4R5ZI",
        "Cortex-M4F",
        120,
        640 * KIB,
        640 * KIB,
        2 * MIB,
        "DSP, FPU",
        "STMicroelectronics, datasheet DS12023, Features: Memories (2-Mbyte flash, 640 Kbytes of SRAM)",
        f"{ST}stm32l4r5vi.pdf",
        measured_as="NUCLEO-L4R5ZI",
    ),
    Board(
        "NUCLEO-U575ZI-Q",
        "STM32U575ZI",
        "Cortex-M33",
        160,
        786 * KIB,
        768 * KIB,
        2 * MIB,
        "DSP, FPU",
        "STMicroelectronics, datasheet DS13737, Features: Memories (2-Mbyte flash, 786-Kbyte SRAM), Memory mapping",
        f"{ST}stm32u575zi.pdf",
        measured_as="NUCLEO-U575ZI-Q",
    ),
    Board(
        "32F746GDISCOVERY",
        "STM32F746NG",
        "Cortex-M7",
        216,
        320 * KIB,
        320 * KIB,
        1 * MIB,
        "DSP, FPU",
        "STMicroelectronics, datasheet DS10916, Features: Memories (1 MB of flash, 320 KB of SRAM including 64 KB of "
        "data TCM)",
        f"{ST}stm32f746ng.pdf",
        measured_as="DISCO-F746NG",
    ),
    Board(
        "NUCLEO-H7A3ZI-Q",
        "STM32H7A3ZI",
        "Cortex-M7",
        280,
        1376 * KIB,
        1024 * KIB,
        2 * MIB,
        "DSP, FPU",
        "STMicroelectronics, datasheet DS13195, Features: Memories (2 Mbytes of flash, ~1.4 Mbytes of RAM, of which 64 "
        "Kbytes of ITCM and 128 of DTCM), Memory mapping (AXI SRAM 1 Mbyte)",
        f"{ST}stm32h7a3zi.pdf",
        measured_as="NUCLEO-H7A3ZI-Q",
    ),
    Board(
        "NUCLEO-H743ZI2",
        "STM32H743ZI",
        "Cortex-M7",
        480,
        1024 * KIB,
        512 * KIB,
        2 * MIB,
        "DSP, FPU",
        "STMicroelectronics, datasheet DS12110, Features: Memories (2 Mbytes of flash, up to 1 Mbyte of RAM), Memory "
        "mapping (AXI SRAM 512 Kbytes)",
        f"{ST}stm32h743zi.pdf",
    ),
    Board(
        "Teensy 4.1",
        "NXP i.MX RT1062",
        "Cortex-M7",
        600,
        1024 * KIB,
        512 * KIB,
        7936 * KIB,
        "DSP, FPU",
        "PJRC, Teensy 4.1 Development Board, Specifications (7936K flash, 1024K RAM, 512K of it tightly coupled)",
        "https://www.pjrc.com/store/teensy41.html",
    ),
    Board(
        "Alif Ensemble E7",
        "AE722F80F55D5",
        "2 x Cortex-M55",
        400,
        13824 * KIB,
        4 * MIB,
        5632 * KIB,
        "Ethos-U55, MVE, FPU",
        "Alif Semiconductor, Ensemble CMSIS device family pack, AE722F80F55D5 device features (MRAM 5.5 MB; SRAM0 4 "
        "MB, SRAM0 to SRAM9 13.5 MB in all)",
        "https://github.com/alifsemi/alif_ensemble-cmsis-dfp",
    ),
)


def board(name: str) -> Board:
    """The board whose name, or a part of it, is `name`, whatever the case.

    Raises EdgelabError where none or several have it.
    """
    found = [one for one in BOARDS if one.name.lower() == name.lower()] or [
        one for one in BOARDS if name.lower() in one.name.lower()
    ]
    if len(found) == 1:
        return found[0]
    names = ", ".join(one.name for one in found or BOARDS)
    raise EdgelabError(f"expected one board, {name!r} names {len(found) or 'none'}: choose one of {names}")
