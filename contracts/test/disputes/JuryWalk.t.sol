// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {IJury} from "../../src/interfaces/IJury.sol";
import {ErrorsLib} from "../../src/libraries/ErrorsLib.sol";
import {VM} from "../Vm.sol";
import {Court} from "./Court.sol";

/// @notice Every call in every state of a case: which goes through, and how each other fails.
contract JuryWalkTest is Court {
    enum Phase {
        DRAWING,
        DRAWABLE,
        STALE,
        SITTING,
        LAPSED,
        DECIDED,
        FINAL,
        CLOSED
    }
    enum Call {
        SEAT,
        REDRAW,
        DECIDE,
        APPEAL,
        ESCALATE,
        CLOSE
    }

    uint256 internal constant PHASES = 8;
    uint256 internal constant CALLS = 6;
    bytes4 internal constant OK = 0;

    address[] internal jurors;

    function test_EveryCallInEveryStateOfTheFirstLevel() external {
        _walk(0, false);
    }

    function test_EveryCallInEveryStateOfTheSecondLevel() external {
        _walk(1, false);
    }

    function test_EveryCallInEveryStateOfTheLastLevel() external {
        _walk(2, false);
    }

    /// @notice What happens to the leaf changes nothing of this.
    function test_EveryCallInEveryStateWhileTheLeafIsVoid() external {
        for (uint8 level = 0; level < 3; ++level) {
            _walk(level, true);
        }
    }

    /// @dev The table: what a call meets in a phase.
    function _expected(uint8 level, Phase phase, Call call_) internal pure returns (bytes4) {
        if (phase == Phase.CLOSED) return ErrorsLib.UnknownCase.selector;
        bool isSeated = phase != Phase.DRAWING && phase != Phase.DRAWABLE && phase != Phase.STALE;
        bool isDecided = phase == Phase.DECIDED || phase == Phase.FINAL;
        if (call_ == Call.SEAT) {
            if (isSeated) return ErrorsLib.AlreadySeated.selector;
            if (phase == Phase.DRAWING) return ErrorsLib.SeedBlockNotReached.selector;
            return phase == Phase.STALE ? ErrorsLib.SeedBlockTooOld.selector : OK;
        }
        if (call_ == Call.REDRAW) {
            if (isSeated) return ErrorsLib.AlreadySeated.selector;
            return phase == Phase.STALE ? OK : ErrorsLib.TooEarly.selector;
        }
        if (call_ == Call.APPEAL) {
            if (!isDecided) return ErrorsLib.NotDecided.selector;
            if (level == 2) return ErrorsLib.NoFurtherLevel.selector;
            return phase == Phase.DECIDED ? OK : ErrorsLib.TooLate.selector;
        }
        if (!isSeated) return ErrorsLib.NotSeated.selector;
        if (call_ == Call.DECIDE) {
            if (isDecided) return ErrorsLib.AlreadyJudged.selector;
            return phase == Phase.SITTING ? OK : ErrorsLib.TooLate.selector;
        }
        if (call_ == Call.ESCALATE) {
            if (isDecided) return ErrorsLib.AlreadyJudged.selector;
            if (level == 2) return ErrorsLib.NoFurtherLevel.selector;
            return phase == Phase.SITTING ? ErrorsLib.TooEarly.selector : OK;
        }
        if (phase == Phase.FINAL) return OK;
        if (phase == Phase.DECIDED) return level == 2 ? OK : ErrorsLib.TooEarly.selector;
        if (level < 2) return ErrorsLib.NotDecided.selector;
        return phase == Phase.SITTING ? ErrorsLib.TooEarly.selector : OK;
    }

    /* WALKING */

    function _walk(uint8 level, bool isVoid) internal {
        for (uint256 phase = 0; phase < PHASES; ++phase) {
            // One that must fail changes nothing, so all of them are tried in one world.
            _arrive(level, Phase(phase), isVoid);
            for (uint256 i = 0; i < CALLS; ++i) {
                bytes4 expected = _expected(level, Phase(phase), Call(i));
                if (expected != OK) _try(level, Phase(phase), Call(i), expected);
            }
            bool isUsed = false;
            for (uint256 i = 0; i < CALLS; ++i) {
                if (_expected(level, Phase(phase), Call(i)) != OK) continue;
                if (isUsed) _arrive(level, Phase(phase), isVoid);
                _try(level, Phase(phase), Call(i), OK);
                isUsed = true;
            }
        }
    }

    function _try(uint8 level, Phase phase, Call call_, bytes4 expected) internal {
        bytes memory data = _data(phase, call_);
        VM.prank(accuser);
        (bool ok, bytes memory answer) = address(jury).call(data);
        bytes4 actual = ok ? OK : bytes4(answer);
        string memory what = string.concat(
            "level ",
            VM.toString(level),
            " phase ",
            VM.toString(uint256(phase)),
            " call ",
            VM.toString(uint256(call_))
        );
        assertEq(bytes32(actual), bytes32(expected), what);
    }

    function _data(Phase phase, Call call_) internal view returns (bytes memory) {
        if (call_ == Call.SEAT) return abi.encodeCall(jury.seatJury, (1, _readyHeader(phase)));
        if (call_ == Call.REDRAW) return abi.encodeCall(jury.redraw, (1));
        if (call_ == Call.APPEAL) return abi.encodeCall(jury.appeal, (1));
        if (call_ == Call.ESCALATE) return abi.encodeCall(jury.escalate, (1));
        IJury.Case memory case_ = jury.caseOf(1);
        uint256 count = _quorum(case_.level, jurors.length);
        if (call_ == Call.CLOSE) {
            bool isDecided = case_.verdict != 0;
            return abi.encodeCall(jury.close, (1, isDecided ? _first(jurors, count) : _noVoters()));
        }
        return abi.encodeCall(jury.decide, (1, jurors, _votes(1, jurors, count, MATCH)));
    }

    /// @dev A new market whose only case is in this state.
    function _arrive(uint8 level, Phase phase, bool isVoid) internal {
        _begin(33);
        delete jurors;
        uint256 id = _accuse(0);
        assertEq(id, 1, "the only case");
        if (isVoid) _voidByChallenge(0);
        for (uint8 i = 0; i < level; ++i) {
            _letLapse(id);
            jury.escalate(id);
        }
        if (phase == Phase.DRAWING) return;
        if (phase == Phase.DRAWABLE) {
            _reachSeedBlock(id, _mix(id));
            return;
        }
        if (phase == Phase.STALE) {
            VM.roll(VM.getBlockNumber() + SEED_DELAY + 8192);
            return;
        }
        _seatOnly(id);
        if (phase == Phase.LAPSED) VM.warp(jury.caseOf(id).deadline + 1);
        if (phase == Phase.SITTING || phase == Phase.LAPSED) return;
        uint256 count = _quorum(level, jurors.length);
        jury.decide(id, jurors, _votes(id, jurors, count, MATCH));
        if (phase == Phase.FINAL || phase == Phase.CLOSED) {
            VM.warp(jury.caseOf(id).deadline + 1);
        }
        if (phase == Phase.CLOSED) jury.close(id, _first(jurors, count));
    }

    function _seatOnly(uint256 id) internal {
        jurors = _seat(id);
    }

    function _readyHeader(Phase phase) internal view returns (bytes memory) {
        return phase == Phase.CLOSED ? bytes("") : _header(_mix(1));
    }
}
