// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {ErrorsLib} from "../../src/libraries/ErrorsLib.sol";
import {EventsLib} from "../../src/libraries/EventsLib.sol";
import {VM} from "../Vm.sol";
import {HistoryContract} from "../mocks/HistoryContract.sol";
import {Court} from "./Court.sol";

/// @notice Who is drawn, from which block, and who is not. `_seat` compares every jury with a second
/// computation.
contract JurySeatTest is Court {
    address internal constant HISTORY = 0x0000F90827F1C53a10cb7A02335B175320002935;
    bytes32 internal constant MIX = keccak256("randomness");

    /* THE BLOCK */

    function test_TheSeedBlockMustBePast() external {
        uint256 id = _accuse(0);
        uint256 seedBlock = VM.getBlockNumber() + SEED_DELAY;
        bytes memory header = _header(MIX);
        VM.roll(seedBlock);
        _refuse(
            abi.encodeCall(jury.seatJury, (id, header)),
            abi.encodeWithSelector(ErrorsLib.SeedBlockNotReached.selector, seedBlock + 1, seedBlock)
        );
        VM.roll(seedBlock + 1);
        VM.setBlockhash(seedBlock, keccak256(header));
        jury.seatJury(id, header);
    }

    function test_RevertWhen_TheHeaderIsOfAnotherBlock() external {
        uint256 id = _accuse(0);
        bytes memory header = _reachSeedBlock(id, MIX);
        bytes memory nicer = _header("a nicer jury");
        VM.setBlockhash(VM.getBlockNumber() - 2, keccak256(nicer));
        _refuse(
            abi.encodeCall(jury.seatJury, (id, nicer)),
            abi.encodeWithSelector(
                ErrorsLib.WrongHeader.selector, keccak256(header), keccak256(nicer)
            )
        );
    }

    function test_HistoryReaches8191BlocksAndNobodyDrawsAgainBefore() external {
        uint256 id = _accuse(0);
        uint256 seedBlock = VM.getBlockNumber() + SEED_DELAY;
        bytes memory header = _header(MIX);
        VM.etch(HISTORY, address(new HistoryContract()).code);
        HistoryContract(HISTORY).set(seedBlock, keccak256(header));
        VM.roll(seedBlock + 8191);
        _refuse(
            abi.encodeCall(jury.redraw, (id)),
            abi.encodeWithSelector(ErrorsLib.TooEarly.selector, seedBlock + 8192, seedBlock + 8191)
        );
        jury.seatJury(id, header);
    }

    function test_AfterThatTheJuryIsDrawnFromALaterBlock() external {
        uint256 id = _accuse(0);
        uint256 seedBlock = VM.getBlockNumber() + SEED_DELAY;
        VM.roll(seedBlock + 8192);
        _refuse(
            abi.encodeCall(jury.seatJury, (id, _header(MIX))),
            abi.encodeWithSelector(
                ErrorsLib.SeedBlockTooOld.selector, seedBlock + 8191, seedBlock + 8192
            )
        );
        VM.expectEmit(true, true, true, true, address(jury));
        emit EventsLib.JuryRedrawn(id, uint64(seedBlock + 8192));
        VM.prank(STRANGER);
        jury.redraw(id);
        assertEq(jury.caseOf(id).drawBlock, seedBlock + 8192, "a block that nobody knows");
        _refuse(
            abi.encodeCall(jury.redraw, (id)),
            abi.encodeWithSelector(
                ErrorsLib.TooEarly.selector, seedBlock + 16384 + SEED_DELAY, seedBlock + 8192
            )
        );
        _seat(id);
    }

    function test_TheEventTellsTheJury() external {
        uint256 id = _accuse(0);
        bytes memory header = _reachSeedBlock(id, MIX);
        address[] memory jurors = _drawn(id, MIX);
        bytes32 seed = keccak256(
            abi.encode(keccak256("gpumarket.jury.v1"), block.chainid, jury, id, uint8(0), MIX)
        );
        uint64 deadline = uint64(VM.getBlockTimestamp()) + RESPONSE;
        VM.expectEmit(true, true, true, true, address(jury));
        emit EventsLib.JurySeated(id, 0, 1000 + SEED_DELAY, seed, jurors, deadline);
        VM.prank(STRANGER);
        jury.seatJury(id, header);
        assertEq(jury.caseOf(id).deadline, deadline, "deadline");
    }

    /* WHO */

    function test_EachLevelHasItsSize() external {
        uint256 id = _accuse(0);
        assertEq(_seatAndLapse(id).length, 5, "first");
        assertEq(_seatAndLapse(id).length, 15, "second");
        assertEq(_seat(id).length, 31, "last");
    }

    function test_ASmallRegistryGivesASmallJury() external {
        for (uint256 count = 0; count < 7; ++count) {
            _begin(count);
            uint256 id = _accuse(0);
            address[] memory jurors = _seatAndLapse(id);
            assertEq(jurors.length, _least(count, 5), "first");
            jurors = _seatAndLapse(id);
            assertEq(jurors.length, count, "second");
            assertEq(_seat(id).length, count, "last");
        }
    }

    function test_JurorsAreDistinct() external {
        _begin(6);
        for (uint256 i = 0; i < 3; ++i) {
            address[] memory jurors = _seat(_accuse(uint32(i)));
            for (uint256 j = 0; j < jurors.length; ++j) {
                for (uint256 k = 0; k < j; ++k) {
                    assertTrue(jurors[j] != jurors[k], "twice in one jury");
                }
            }
        }
    }

    function test_NobodyJudgesItself() external {
        // The provider is a verifier by another key; two others are paid where provider or requester
        // are.
        _setPayout(3, COLD);
        _setPayout(4, requester);
        _makeUnfit(3);
        _makeUnfit(4);
        _expectNever();
    }

    function test_TheRequesterDoesNotJudgeItsProvider() external {
        _begin(6);
        // The requester of this batch is a listed verifier.
        requester = verifiers[2];
        _deposit(requester, FUNDS);
        batch = _post(coordinator, _work());
        _makeUnfit(2);
        _expectNever();
    }

    function test_TheProvidersColdKeyDoesNotJudgeItsProvider() external {
        VM.prank(COLD);
        settlement.changePayout(provider, verifiers[0]);
        _makeUnfit(0);
        _expectNever();
    }

    function test_ThoseWhoAreLeavingDoNotJudge() external {
        for (uint256 i = 0; i < 3; ++i) {
            VM.prank(verifiers[i]);
            settlement.requestUnstake(verifiers[i], MIN_STAKE);
            _makeUnfit(i);
        }
        _expectNever();
    }

    function test_ThoseWhoStakedAgainLateDoNotJudge() external {
        // Verifier 0 leaves, and is back a second too late; verifier 1 exactly in time.
        _begin(6);
        for (uint256 i = 0; i < 2; ++i) {
            VM.prank(verifiers[i]);
            settlement.requestUnstake(verifiers[i], MIN_STAKE);
        }
        uint256 back = VM.getBlockTimestamp() + EXIT_DELAY;
        VM.warp(back);
        _return(1);
        VM.warp(back + 1);
        _return(0);
        VM.warp(back + EPOCH);
        order = _order(requester, coordinator);
        batch = _post(coordinator, _work());
        _makeUnfit(0);
        _expectNever();
    }

    function test_ThoseBelowMinStakeDoNotJudge() external {
        _begin(6);
        // Slashed for two verdicts on one receipt, and not topped up.
        _slash(verifiers[5]);
        _makeUnfit(5);
        _expectNever();
        // Topped up later: no better for this batch.
        _fund(verifiers[5], STAKE_SLASH);
        VM.prank(verifiers[5]);
        settlement.stakeVerifier(STAKE_SLASH, _payout(5), PEER);
        _expectNeverIn(2);
    }

    function test_TopUpOfAGoodStakeCostsNoSeat() external {
        _begin(5);
        _fund(verifiers[0], 1);
        VM.prank(verifiers[0]);
        settlement.stakeVerifier(1, _payout(0), PEER);
        assertEq(_seat(_accuse(0)).length, 5, "all of them");
    }

    /// @dev 400 juries of 5 out of 40: each verifier is expected in 50. Chi-squared of 39 degrees is
    /// above 87 once in a hundred thousand fair draws; the seeds are fixed.
    function test_TheDrawIsFair() external {
        uint256 id = _accuse(0);
        uint256[40] memory seats;
        for (uint256 i = 0; i < 400; ++i) {
            address[] memory jurors = _drawn(id, keccak256(abi.encode("fair", i)));
            for (uint256 j = 0; j < 5; ++j) {
                ++seats[_numberOf(jurors[j])];
            }
        }
        uint256 sum = 0;
        for (uint256 i = 0; i < 40; ++i) {
            uint256 off = seats[i] > 50 ? seats[i] - 50 : 50 - seats[i];
            sum += off * off;
        }
        assertTrue(sum < 87 * 50, "some are drawn more than others");
        // The contract draws the same.
        _seatBy(id, keccak256(abi.encode("fair", uint256(7))));
    }

    function test_EachCaseAndLevelHasItsOwnJury() external {
        uint256 a = _accuse(0);
        uint256 b = _accuse(1);
        bytes32 first = keccak256(abi.encode(_seatBy(a, MIX)));
        bytes32 second = keccak256(abi.encode(_seatBy(b, MIX)));
        assertTrue(first != second, "one block, two juries");
    }

    /* INTERNAL */

    function _seatAndLapse(uint256 id) internal returns (address[] memory jurors) {
        jurors = _seat(id);
        VM.warp(VM.getBlockTimestamp() + RESPONSE + 1);
        jury.escalate(id);
    }

    function _makeUnfit(uint256 i) internal {
        unfit[verifiers[i]] = true;
    }

    /// @dev Both juries here are as large as the registry, so whoever may judge is drawn.
    function _expectNever() internal {
        _expectNeverIn(0);
    }

    function _expectNeverIn(uint32 index) internal {
        uint256 id = _accuse(index);
        for (uint8 level = 0; level < 3; ++level) {
            address[] memory jurors = _seat(id);
            assertTrue(jurors.length != 0, "somebody judges");
            for (uint256 i = 0; i < jurors.length; ++i) {
                assertTrue(!unfit[jurors[i]], "must not judge");
            }
            if (level == 2) return;
            VM.warp(VM.getBlockTimestamp() + RESPONSE + 1);
            jury.escalate(id);
        }
    }

    function _setPayout(uint256 i, address payout) internal {
        VM.prank(_payout(i));
        settlement.changePayout(verifiers[i], payout);
    }

    function _return(uint256 i) internal {
        address verifier = verifiers[i];
        VM.prank(verifier);
        settlement.unstake(verifier);
        _stakeVerifier(verifier, _payout(i), MIN_STAKE);
    }

    function _slash(address verifier) internal {
        bytes memory yes = _sign(verifier, _verdictHash(MATCH));
        bytes memory no = _sign(verifier, _verdictHash(MISMATCH));
        disputes.proveConflict(
            _attestation(receipts[0], MATCH), yes, _attestation(receipts[0], MISMATCH), no
        );
    }

    function _verdictHash(uint8 verdict) internal view returns (bytes32) {
        return keccak256(
            abi.encode(
                keccak256(
                    "Attestation(bytes32 receiptHash,uint8 verdict,bytes32 evidenceHash,uint64 issuedAt)"
                ),
                _attestation(receipts[0], verdict)
            )
        );
    }

    function _numberOf(address verifier) internal view returns (uint256) {
        for (uint256 i = 0; i < verifiers.length; ++i) {
            if (verifiers[i] == verifier) return i;
        }
        revert("no verifier");
    }
}
