#!/usr/bin/env bash
# feetech-servo-sdk: a handler made for a second bus of the other kind swaps the bytes of the first: position 2048 is 8
#
# Versions: feetech-servo-sdk 1.0.0 (which LeRobot drives SO-100 and SO-101 arms by)
# Guess: PacketHandler(0) reads STS servos, whose low byte comes first, and PacketHandler(1) SCS servos, whose high byte does; both may live
#   in one program, as an arm and a gripper of the two series do.
# Fact: The order of bytes is one variable of the module, and the newest handler sets it for all. The first handler then reads 2048, the middle
#   of its range, as 8, and would send a goal of 2048 as 8. No error, as the checksum holds. Speeds below 0 come as
#   32768 plus their amount, which scs_tohost turns back.
# Output: the middle of an STS servo: 2048; after PacketHandler(1) was made: 8. Bytes sent for 2048: 0 8, then 8 0. Speed -10: 32778
# Needs: Python 3.12 or newer (PYTHON=), 10 MB; no device: the port is a stand-in that answers as servos do
# Date: 2026-12-01
set -euo pipefail
. "$(dirname "$0")/environment.sh"
environment venv
install venv feetech-servo-sdk==1.0.0 pyserial==3.5
venv/bin/python -W ignore - <<'PY'
import scservo_sdk

POSITION, SPEED, GOAL = 56, 58, 42


class Port:
    """Answers each request with the bytes of a servo's register."""

    is_using, baudrate, packet_start_time = False, 1_000_000, 0

    def __init__(self, *register):
        self.register = register

    def writePort(self, packet):
        self.sent = packet
        answer = [0xFF, 0xFF, packet[2], 2 + len(self.register), 0, *self.register]
        self.answer = [*answer, ~sum(answer[2:]) & 0xFF]
        return len(packet)

    def readPort(self, length):
        part, self.answer = self.answer[:length], self.answer[length:]
        return part

    def clearPort(self):
        pass

    def setPacketTimeout(self, length):
        pass

    def isPacketTimeout(self):
        return False


arm, middle = scservo_sdk.PacketHandler(0), Port(0x00, 0x08)
before = arm.read2ByteTxRx(middle, 1, POSITION)[0]
backward = arm.read2ByteTxRx(Port(0x0A, 0x80), 1, SPEED)[0]
port = Port()
arm.write2ByteTxRx(port, 1, GOAL, 2048)
sent = [int(byte) for byte in port.sent[6:8]]

gripper = scservo_sdk.PacketHandler(1)
after = arm.read2ByteTxRx(middle, 1, POSITION)[0]
arm.write2ByteTxRx(port, 1, GOAL, 2048)
then = [int(byte) for byte in port.sent[6:8]]
print("position", before, "after a second handler", after, "bytes of the goal", sent, then, "speed", backward)
assert (before, after) == (2048, 8) and (sent, then) == ([0, 8], [8, 0])
assert backward == 32778 and scservo_sdk.SCS_TOHOST(backward, 15) == -10
assert gripper.read2ByteTxRx(Port(0x02, 0x00), 1, POSITION)[0] == 512
PY
