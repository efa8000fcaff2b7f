// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {ISettlement} from "../../src/interfaces/ISettlement.sol";
import {ErrorsLib} from "../../src/libraries/ErrorsLib.sol";
import {EventsLib} from "../../src/libraries/EventsLib.sol";
import {Fixture} from "../Fixture.sol";
import {VM} from "../Vm.sol";

contract PostBatchTest is Fixture {
    function setUp() public override {
        super.setUp();
        _deposit(ALICE, 100e6);
        _deposit(BOB, 50e6);
        _bond(COORDINATOR, MIN_BOND);
    }

    /* WHAT A BATCH DOES */

    function test_LanesMoveFromRequestersToPayees() external {
        bytes memory lanes = bytes.concat(
            _lane(0, 0, 3, 10e6), _lane(0, 1, 1, 5e6), _lane(1, 0, 7, 20e6), _lane(1, 2, 1, 1)
        );
        address[] memory payees = new address[](3);
        (payees[0], payees[1], payees[2]) = (PROVIDER, VERIFIER, COORDINATOR);
        VM.prank(COORDINATOR);
        settlement.postBatch(NEVER, DATA, ROOT, _two(ALICE, BOB), payees, lanes);
        assertEq(settlement.requesterOf(ALICE).balance, 85e6, "alice");
        assertEq(settlement.requesterOf(BOB).balance, 30e6 - 1, "bob");
        assertEq(settlement.payeeOf(PROVIDER).cur, 30e6, "provider");
        assertEq(settlement.payeeOf(VERIFIER).cur, 5e6, "verifier");
        assertEq(settlement.payeeOf(COORDINATOR).cur, 1, "coordinator");
    }

    function test_CommitmentAndEventCarryAllADisputeNeeds() external {
        bytes memory lanes = bytes.concat(_lane(0, 0, 3, 10e6), _lane(1, 0, 1, 5));
        address[] memory requesters = _two(ALICE, BOB);
        address[] memory payees = _one(PROVIDER);
        VM.expectEmit(true, true, true, true, address(settlement));
        emit ISettlement.BatchPosted(
            COORDINATOR, 0, uint64(START), DATA, ROOT, requesters, payees, lanes
        );
        VM.prank(COORDINATOR);
        settlement.postBatch(NEVER, DATA, ROOT, requesters, payees, lanes);
        assertEq(
            settlement.batchOf(COORDINATOR, 0),
            keccak256(abi.encode(uint64(START), DATA, ROOT, requesters, payees, lanes)),
            "commitment"
        );
    }

    function test_CommitmentIsTheHashOfTheEventData() external {
        VM.recordLogs();
        _pay(PROVIDER, 1);
        assertEq(
            keccak256(VM.getRecordedLogs()[0].data), settlement.batchOf(COORDINATOR, 0), "same"
        );
    }

    function test_EachCoordinatorCountsItsOwnBatches() external {
        assertEq(_pay(PROVIDER, 1), 0, "first");
        assertEq(_pay(PROVIDER, 1), 1, "second");
        _bond(STRANGER, MIN_BOND);
        VM.prank(STRANGER);
        uint64 seq =
            settlement.postBatch(NEVER, DATA, ROOT, _one(ALICE), _one(PROVIDER), _lane(0, 0, 1, 1));
        assertEq(seq, 0, "another coordinator's first");
        assertEq(settlement.coordinatorOf(COORDINATOR).batches, 2, "count");
    }

    function test_ListedTwiceIsPaidTwice() external {
        bytes memory lanes = bytes.concat(_lane(0, 0, 1, 10), _lane(1, 1, 1, 20));
        VM.prank(COORDINATOR);
        settlement.postBatch(NEVER, DATA, ROOT, _two(ALICE, ALICE), _two(PROVIDER, PROVIDER), lanes);
        assertEq(settlement.requesterOf(ALICE).balance, 100e6 - 30, "both debits");
        assertEq(settlement.payeeOf(PROVIDER).cur, 30, "both credits");
    }

    function test_RequesterMayAlsoBePayee() external {
        _pay(ALICE, 10);
        assertEq(settlement.requesterOf(ALICE).balance, 100e6 - 10, "escrow");
        assertEq(settlement.payeeOf(ALICE).cur, 10, "credit");
    }

    function test_LaneOfFreeWorkIsRecorded() external {
        _pay(PROVIDER, 0);
        assertEq(settlement.requesterOf(ALICE).balance, 100e6, "nothing moved");
        assertTrue(settlement.batchOf(COORDINATOR, 0) != 0, "but the root is committed");
    }

    function testFuzz_SumsAreConserved(uint256 salt) external {
        (bytes memory lanes, uint256 total) = ("", 0);
        uint256 count = 2 + salt % 40;
        for (uint256 i = 0; i < count; ++i) {
            uint256 r = uint256(keccak256(abi.encode(salt, i)));
            uint64 amount = uint64((r >> 32) % 1e6);
            total += amount;
            lanes = bytes.concat(
                lanes, _lane(uint16(r % 2), uint16((r >> 8) % 2), uint32(1 + (r >> 16) % 9), amount)
            );
        }
        VM.prank(COORDINATOR);
        settlement.postBatch(NEVER, DATA, ROOT, _two(ALICE, BOB), _two(PROVIDER, VERIFIER), lanes);
        uint256 left = settlement.requesterOf(ALICE).balance + settlement.requesterOf(BOB).balance;
        uint256 paid = settlement.payeeOf(PROVIDER).cur + settlement.payeeOf(VERIFIER).cur;
        assertEq(left, 150e6 - total, "debits");
        assertEq(paid, total, "credits");
    }

    /* WHAT IT REFUSES */

    function test_RevertWhen_CallerHasNoBond() external {
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.BondTooSmall.selector, MIN_BOND, 0));
        VM.prank(STRANGER);
        settlement.postBatch(NEVER, DATA, ROOT, _one(ALICE), _one(PROVIDER), _lane(0, 0, 1, 1));
    }

    function test_RevertWhen_OneUnitAboveTheEscrow() external {
        VM.expectRevert(
            abi.encodeWithSelector(ErrorsLib.InsufficientBalance.selector, ALICE, 100e6 + 1, 100e6)
        );
        _pay(PROVIDER, 100e6 + 1);
        _pay(PROVIDER, 100e6);
    }

    function test_RevertWhen_LanesTogetherAreAboveTheEscrow() external {
        bytes memory lanes = bytes.concat(_lane(0, 0, 1, 60e6), _lane(0, 1, 1, 60e6));
        VM.expectRevert(
            abi.encodeWithSelector(ErrorsLib.InsufficientBalance.selector, ALICE, 120e6, 100e6)
        );
        VM.prank(COORDINATOR);
        settlement.postBatch(NEVER, DATA, ROOT, _one(ALICE), _two(PROVIDER, VERIFIER), lanes);
    }

    function test_RevertWhen_SumsWouldWrap() external {
        uint64 half = uint64(1) << 63;
        bytes memory lanes = bytes.concat(_lane(0, 0, 1, half), _lane(0, 0, 1, half));
        VM.expectRevert(
            abi.encodeWithSelector(
                ErrorsLib.InsufficientBalance.selector, ALICE, uint256(1) << 64, 100e6
            )
        );
        VM.prank(COORDINATOR);
        settlement.postBatch(NEVER, DATA, ROOT, _one(ALICE), _one(PROVIDER), lanes);
    }

    function test_RevertWhen_RequesterHasNoEscrow() external {
        VM.expectRevert(
            abi.encodeWithSelector(ErrorsLib.InsufficientBalance.selector, STRANGER, 1, 0)
        );
        VM.prank(COORDINATOR);
        settlement.postBatch(NEVER, DATA, ROOT, _one(STRANGER), _one(PROVIDER), _lane(0, 0, 1, 1));
    }

    function test_RevertWhen_AnIndexIsBeyondItsList() external {
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.BadLaneIndex.selector, 0, 1, 1));
        _post(_one(ALICE), _one(PROVIDER), _lane(1, 0, 1, 1));
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.BadLaneIndex.selector, 0, 1, 1));
        _post(_one(ALICE), _one(PROVIDER), _lane(0, 1, 1, 1));
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.BadLaneIndex.selector, 1, 1, 65535));
        _post(_one(ALICE), _one(PROVIDER), bytes.concat(_lane(0, 0, 1, 1), _lane(0, 65535, 1, 1)));
    }

    function test_RevertWhen_ALaneHasNoLeaves() external {
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.EmptyLane.selector, 1));
        _post(_one(ALICE), _one(PROVIDER), bytes.concat(_lane(0, 0, 1, 1), _lane(0, 0, 0, 1)));
    }

    function test_RevertWhen_LanesAreNotWhole() external {
        bytes memory lane = _lane(0, 0, 1, 1);
        _expectBadLength(0);
        _post(_one(ALICE), _one(PROVIDER), "");
        _expectBadLength(17);
        _post(_one(ALICE), _one(PROVIDER), bytes.concat(lane, hex"00"));
    }

    function test_LanesUpToTheLimit() external {
        bytes memory lanes;
        for (uint256 i = 0; i < 256; ++i) {
            lanes = bytes.concat(lanes, _lane(0, 0, 1, 1));
        }
        _post(_one(ALICE), _one(PROVIDER), lanes);
        assertEq(settlement.payeeOf(PROVIDER).cur, 256, "all counted");
        _expectBadLength(257 * 16);
        _post(_one(ALICE), _one(PROVIDER), bytes.concat(lanes, _lane(0, 0, 1, 1)));
    }

    function test_RevertWhen_MorePartiesThanLanes() external {
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.TooManyParties.selector, 1, 2));
        _post(_two(ALICE, BOB), _one(PROVIDER), _lane(0, 0, 1, 1));
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.TooManyParties.selector, 1, 2));
        _post(_one(ALICE), _two(PROVIDER, VERIFIER), _lane(0, 0, 1, 1));
    }

    function test_RevertWhen_PayeeCannotBePaid() external {
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.BadAddress.selector, address(0)));
        _pay(address(0), 1);
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.BadAddress.selector, address(settlement)));
        _pay(address(settlement), 1);
    }

    function _post(address[] memory requesters, address[] memory payees, bytes memory lanes)
        internal
    {
        VM.prank(COORDINATOR);
        settlement.postBatch(NEVER, DATA, ROOT, requesters, payees, lanes);
    }

    function _expectBadLength(uint256 length) internal {
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.BadLanesLength.selector, 16, 256, length));
    }

    function test_ABatchComesInTimeOrNotAtAll() external {
        uint64 until = uint64(START) + 100;
        VM.warp(until);
        VM.prank(COORDINATOR);
        settlement.postBatch(until, DATA, ROOT, _one(ALICE), _one(PROVIDER), _lane(0, 0, 1, 1));
        VM.warp(until + 1);
        VM.prank(COORDINATOR);
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.TooLate.selector, until, until + 1));
        settlement.postBatch(until, DATA, ROOT, _one(ALICE), _one(PROVIDER), _lane(0, 0, 1, 1));
    }
}
