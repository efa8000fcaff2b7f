// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {IJury} from "../../src/interfaces/IJury.sol";
import {ErrorsLib} from "../../src/libraries/ErrorsLib.sol";
import {Hashing} from "../../src/libraries/Hashing.sol";
import {VM} from "../Vm.sol";
import {Court} from "./Court.sol";

/// @notice What a forger and its friends try with cases about receipts alone, and what those who hate
/// an honest provider do. Receipt 0 of the court is posted; it is tried here both ways.
contract JuryReceiptAttacksTest is Court {
    address internal friend;

    function setUp() public override {
        super.setUp();
        friend = _account("friend");
        _deposit(friend, FUNDS);
    }

    /* SHIELDING */

    function test_AFriendsAcquittalIsNoShieldForTheLeaf() external {
        _stakeProvider(provider, COLD, MIN_STAKE);
        uint256 first = _accuseReceiptBy(friend, receipts[0]);
        _close(first, _judge(first, MATCH));
        uint256 second = _accuse(0);
        _close(second, _judge(second, MISMATCH));
        assertEq(_stakeOf(provider), 2 * MIN_STAKE - STAKE_SLASH, "slashed");
        assertTrue(_leaf(0).isVoid, "and the price is back");
        assertEq(settlement.held(), 0, "held");
    }

    function test_AnOpenTrialIsNoShieldForTheLeaf() external {
        uint256 first = _accuseReceiptBy(friend, receipts[0]);
        uint256 second = _accuse(0);
        _close(second, _judge(second, MISMATCH));
        assertTrue(_leaf(0).isVoid, "the leaf is tried on its own");
        _dismiss(first);
        assertEq(_stakeOf(provider), MIN_STAKE - STAKE_SLASH, "what the trial held pays the slash");
        assertEq(settlement.held(), 0, "held");
    }

    function test_AJudgedLeafIsNoShieldForTheReceipt() external {
        uint256 first = _accuse(0);
        _close(first, _judge(first, MATCH));
        uint256 second = _accuseReceiptBy(accuser, receipts[0]);
        _close(second, _judge(second, MISMATCH));
        assertEq(_stakeOf(provider), MIN_STAKE - STAKE_SLASH, "slashed");
        assertTrue(!_leaf(0).isVoid, "the leaf was judged, and stands");
    }

    /// @dev A known limit: one forgery that was paid can cost two slashes, one for each way.
    function test_PostedWorkCanCostTwoSlashes() external {
        _stakeProvider(provider, COLD, MIN_STAKE);
        uint256 first = _accuse(0);
        uint256 second = _accuseReceiptBy(accuser, receipts[0]);
        address[] memory voters = _judge(first, MISMATCH);
        _close(second, _judge(second, MISMATCH));
        jury.close(first, voters);
        assertEq(_stakeOf(provider), 2 * (MIN_STAKE - STAKE_SLASH), "and no third");
        assertEq(settlement.held(), 0, "held");
    }

    /// @notice A forger that makes up receipts, and has a friend accuse them, keeps its stake out of a
    /// true accuser's reach for a while, and loses it all the same.
    function test_MadeUpCasesDoNotSaveTheStake() external {
        Hashing.Order memory own = _order(friend, friend);
        Hashing.Receipt memory empty = _receipt(own, 0, provider, 0);
        uint256 first = _accuseBy(friend, own, empty);
        empty.unit = 1;
        uint256 second = _accuseBy(friend, own, empty);
        uint256 id = _accuseReceiptBy(accuser, receipts[0]);
        assertEq(jury.caseOf(id).stakeHeld, 0, "nothing to hold");
        address[] memory voters = _judge(id, MISMATCH);
        // Nobody can judge what is made up.
        _dismiss(first);
        jury.close(id, voters);
        assertEq(_stakeOf(provider), 0, "what the first gave back was there again");
        _dismiss(second);
        assertEq(_stakeOf(provider), MIN_STAKE - STAKE_SLASH, "the rest is the provider's");
        assertEq(jury.owedBy(provider), 0, "nothing is owed");
        assertEq(settlement.held(), 0, "held");
    }

    function test_MadeUpCasesThatLastLongerDoNotSaveItEither() external {
        Hashing.Order memory own = _order(friend, friend);
        uint256 madeUp = _accuseBy(friend, own, _receipt(own, 0, provider, 0));
        uint256 id = _accuseReceiptBy(accuser, receipts[0]);
        _close(id, _judge(id, MISMATCH));
        assertEq(_stakeOf(provider), 0, "what was left");
        uint256 burnt = settlement.burnt();
        _dismiss(madeUp);
        assertEq(_stakeOf(provider), MIN_STAKE - STAKE_SLASH, "a whole slash in the end");
        assertEq(settlement.burnt() - burnt, STAKE_SLASH - 20e6, "burnt");
        assertEq(_escrow(friend), FUNDS, "the friend has its bond back");
        assertEq(settlement.held(), 0, "held");
    }

    /// @notice Stake that was asked back in time can be held while it waits.
    function test_LeavingInTheEventIsNoShield() external {
        VM.prank(provider);
        settlement.requestUnstake(provider, MIN_STAKE);
        VM.warp(VM.getBlockTimestamp() + 2 days);
        uint256 id = _accuseReceiptBy(accuser, receipts[0]);
        VM.warp(VM.getBlockTimestamp() + EXIT_DELAY);
        VM.prank(provider);
        settlement.unstake(provider);
        _close(id, _judge(id, MISMATCH));
        assertEq(_credit(accuser), STAKE_SLASH / 8, "slashed after it had left");
        assertEq(token.balanceOf(COLD), MIN_STAKE - STAKE_SLASH, "the rest had gone");
    }

    /// @notice A friend that accuses first gets what any accuser gets, and saves the forger nothing else.
    function test_BeingAccusedByAFriendStillCostsHalf() external {
        uint256 id = _accuseReceiptBy(friend, receipts[0]);
        _refuseBy(
            accuser,
            address(jury),
            _receiptCall(order, receipts[0]),
            abi.encodeWithSelector(ErrorsLib.AlreadyDisputed.selector)
        );
        _close(id, _judge(id, MISMATCH));
        uint256 back = _credit(friend) + _stakeOf(provider);
        assertTrue(MIN_STAKE - back >= STAKE_SLASH / 2, "at least half is gone");
    }

    /* HARASSING */

    /// @notice An honest provider loses nothing by accusations, however many, and is paid for each.
    function test_G7_AnHonestProviderLosesNothing() external {
        uint256 before = _stakeOf(provider) + _credit(provider);
        uint256 paid = 0;
        for (uint256 i = 0; i < receipts.length; ++i) {
            uint256 id = _accuseReceiptBy(accuser, receipts[i]);
            _close(id, _judge(id, MATCH));
            paid += JURY_BOND / 2;
        }
        assertEq(_stakeOf(provider) + _credit(provider), before + paid, "compensated");
        assertEq(_escrow(accuser), FUNDS - receipts.length * JURY_BOND, "at the accuser's cost");
    }

    /// @notice Nobody can be tried for what it did not sign, whatever order is made up around it.
    function test_AMadeUpOrderFitsNoReceipt() external {
        Hashing.Order memory own = _order(accuser, accuser);
        bytes32 actual = receipts[0].orderHash;
        _refuse(
            _receiptCall(own, receipts[0]),
            abi.encodeWithSelector(
                ErrorsLib.WrongHash.selector,
                bytes32("receipt.orderHash"),
                Hashing.hash(own),
                actual
            )
        );
    }

    /// @notice Votes are about the receipt: those of one case decide no other.
    function test_VotesOnAnotherReceiptDoNotCount() external {
        uint256 a = _accuseReceiptBy(accuser, receipts[0]);
        uint256 b = _accuseReceiptBy(accuser, receipts[1]);
        address[] memory jurors = _seat(b);
        IJury.Vote[] memory votes = _votes(a, jurors, 5, MISMATCH);
        _refuse(
            abi.encodeCall(jury.decide, (b, jurors, votes)),
            abi.encodeWithSelector(
                ErrorsLib.WrongHash.selector,
                bytes32("attestation.receiptHash"),
                Hashing.hash(receipts[1]),
                Hashing.hash(receipts[0])
            )
        );
    }

    /// @notice Whoever the order names as payer, or is paid with the provider, is no judge of it.
    function test_PartiesOfTheOrderAreNotDrawn() external {
        _begin(5);
        order.requester = verifiers[0];
        VM.prank(_payout(1));
        settlement.changePayout(verifiers[1], COLD);
        (unfit[verifiers[0]], unfit[verifiers[1]]) = (true, true);
        uint256 id = _accuseBy(accuser, order, _receipt(order, 0, provider, UNIT_PRICE));
        assertEq(_seat(id).length, 3, "the others");
    }

    /* INTERNAL */

    function _accuseReceiptBy(address account, Hashing.Receipt memory receipt)
        internal
        returns (uint256)
    {
        return _accuseBy(account, order, receipt);
    }

    function _accuseBy(address account, Hashing.Order memory named, Hashing.Receipt memory receipt)
        internal
        returns (uint256)
    {
        return abi.decode(_must(account, _receiptCall(named, receipt)), (uint256));
    }

    function _receiptCall(Hashing.Order memory named, Hashing.Receipt memory receipt)
        internal
        view
        returns (bytes memory)
    {
        bytes memory signature = _sign(receipt.provider, Hashing.hash(receipt));
        return abi.encodeCall(jury.accuseReceipt, (named, receipt, signature, eligible));
    }

    function _dismiss(uint256 id) internal {
        for (uint8 level = jury.caseOf(id).level; level < 3; ++level) {
            _letLapse(id);
            if (level < 2) jury.escalate(id);
        }
        jury.close(id, _noVoters());
    }
}
