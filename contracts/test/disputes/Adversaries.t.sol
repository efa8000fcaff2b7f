// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {IDisputes} from "../../src/interfaces/IDisputes.sol";
import {ErrorsLib} from "../../src/libraries/ErrorsLib.sol";
import {Hashing} from "../../src/libraries/Hashing.sol";
import {TestToken} from "../../src/mocks/TestToken.sol";
import {VM} from "../Vm.sol";
import {OddToken} from "../mocks/OddToken.sol";
import {Market} from "./Market.sol";

/// @notice Parties that want to harm others, not to gain; tokens and chains that misbehave.
contract AdversariesTest is Market {
    uint256 internal constant CODE_SIZE_MAX = 24_576;
    uint256 internal constant TRANSACTION_GAS_MAX = 1 << 24;

    /* GRIEFING */

    /// @notice The cheapest delay would be a challenge. It delays nothing.
    function test_AChallengeDelaysNoMaturity() external {
        VM.warp(START + EPOCH - OPEN - RESPONSE);
        _writeSheet();
        _postSheet();
        VM.warp(START + EPOCH - RESPONSE);
        Asked[4] memory asked;
        for (uint32 i = 0; i < 4; ++i) {
            asked[i] = _askWithheld(WORK, i);
        }
        VM.warp(START + EPOCH);
        for (uint32 i = 0; i < 4; ++i) {
            _must(provider, _answer(asked[i]));
        }
        VM.warp(START + 2 * EPOCH);
        assertEq(settlement.payeeOf(provider).available, _amount(WORK), "on its day");
    }

    /// @notice All that can be asked about a lane, answered: the payee is paid on its day, and every
    /// bond is the answerer's.
    function test_ChallengesOfEveryIndexCannotStopAPayee() external {
        _postSheet();
        for (uint32 i = 0; i < 3; ++i) {
            _must(provider, _answer(_askLeaf(WORK, i)));
        }
        _must(provider, _answer(_askWithheld(WORK, 3)));
        bytes memory reason = _error(ErrorsLib.AlreadyAnswered.selector);
        for (uint32 i = 0; i < 4; ++i) {
            _refuse(watcher, abi.encodeCall(disputes.challengeWithheld, (batch, WORK, i)), reason);
        }
        VM.warp(START + 2 * EPOCH);
        assertEq(settlement.claim(provider), _amount(WORK) + 4 * CHALLENGE_BOND, "paid, and more");
        assertEq(_escrow(watcher), FUNDS - 4 * CHALLENGE_BOND, "which the griefer paid");
    }

    function test_ABondCostsMoreThanTheGasOfAnAnswer() external {
        _postSheet();
        Asked memory asked = _askWithheld(WORK, 1);
        bytes memory answer = _answer(asked);
        uint256 before = gasleft();
        _must(helper, answer);
        uint256 gas = before - gasleft() + 21_000 + 16 * answer.length;
        // At 1 gwei and 3000 dollars an ether, in millionths of a dollar.
        assertTrue(gas * 3 < CHALLENGE_BOND, "answering earns");
    }

    /// @notice A requester that leaves just before a batch stops that batch, not the next without it.
    function test_ARequesterThatLeavesStopsOneBatchOnly() external {
        address leaver = _account("leaver");
        _deposit(leaver, 50);
        VM.prank(leaver);
        settlement.requestWithdraw(50);
        VM.warp(START + EXIT_DELAY);
        VM.prank(leaver);
        settlement.withdraw(leaver);
        bytes memory lanes = bytes.concat(_lane(0, 0, 1, 10), _lane(1, 0, 1, 50));
        VM.expectRevert(
            abi.encodeWithSelector(ErrorsLib.InsufficientBalance.selector, leaver, 50, 0)
        );
        VM.prank(coordinator);
        settlement.postBatch(NEVER, DATA, ROOT, _two(requester, leaver), _one(provider), lanes);
        VM.prank(coordinator);
        settlement.postBatch(NEVER, DATA, ROOT, _one(requester), _one(provider), _lane(0, 0, 1, 10));
        assertEq(_credit(provider), 10, "dropped and posted again");
    }

    /// @notice However many leaves are forged, one question takes the whole lane back.
    function test_OneQuestionVoidsALaneOfForgedLeaves() external {
        while (sheet[WORK].length < 100) {
            bytes32 forged = keccak256(abi.encode("an unsigned order", sheet[WORK].length));
            sheet[WORK].push(Hashing.Leaf(forged, 0, 0, 1));
        }
        _postSheet();
        Asked memory asked = _askWithheld(WORK, 50);
        _refuseAnswer(asked, _wrongHash("order", sheet[WORK][50].orderHash, Hashing.hash(order)));
        VM.warp(START + RESPONSE + 1);
        _timeout(asked);
        uint256 kept = _amount(CHECKS) + FEE;
        assertEq(_escrow(requester), FUNDS - kept + BOND_SLASH / 4, "all hundred");
        assertEq(_credit(provider), 0, "none is paid");
    }

    /* THEFT OF PROOFS */

    function test_ACopiedProofStillTakesThePaymentBack() external {
        sheet[WORK][0].price = UNIT_PRICE + 1;
        _postSheet();
        uint256 before = _escrow(requester);
        bytes memory proof =
            abi.encodeCall(disputes.proveBadLeaf, (batch, _opening(WORK, 0), order));
        _must(STRANGER, proof);
        _refuse(helper, proof, _error(ErrorsLib.AlreadyVoid.selector));
        assertEq(_credit(STRANGER), BOND_SLASH / 8, "the thief has the reward");
        assertEq(
            _escrow(requester) - before, UNIT_PRICE + 1 + BOND_SLASH / 4, "the victim its money"
        );
    }

    function test_ACopiedAnswerStillRestoresThePayment() external {
        _postSheet();
        Asked memory asked = _askLeaf(WORK, 0);
        bytes memory answer = _answer(asked);
        _must(STRANGER, answer);
        _refuse(helper, answer, _unknown(asked.id, asked.challenge));
        assertEq(_credit(provider), _amount(WORK), "restored");
    }

    function test_ATimeoutCannotBeStolen() external {
        _postSheet();
        Asked memory asked = _askLeaf(WORK, 0);
        VM.warp(START + RESPONSE + 1);
        _must(STRANGER, abi.encodeCall(disputes.timeout, (asked.id, asked.challenge)));
        assertEq(_credit(STRANGER), 0, "the caller gets nothing");
        assertEq(_credit(watcher), BOND_SLASH / 8, "the challenger all");
    }

    /* TOKENS */

    /// @notice No dispute touches the token: one that is paused or refuses everybody stops none.
    function test_DisputesWorkWhileTheTokenDoesNot() external {
        OddToken odd = _restartWithOddToken();
        sheet[WORK][0].price = UNIT_PRICE + 1;
        _postSheet();
        odd.setReturnsFalse(true);
        odd.setFee(1);
        Asked memory answered = _askLeaf(WORK, 1);
        Asked memory lost = _askWithheld(CHECKS, 0);
        _must(helper, _answer(answered));
        _proveBadLeaf(WORK, 0);
        VM.warp(START + RESPONSE + 1);
        _timeout(lost);
        assertEq(settlement.held(), 0, "all disputes ended");
        odd.setReturnsFalse(false);
        odd.setFee(0);
        VM.warp(START + 2 * EPOCH);
        assertEq(settlement.claim(provider), receipts[1].price + receipts[2].price, "paid");
    }

    function test_ABlockedPartyStopsNoDispute() external {
        OddToken odd = _restartWithOddToken();
        _postSheet();
        Asked memory first = _askLeaf(WORK, 0);
        Asked memory second = _askLeaf(WORK, 1);
        address[4] memory parties = [requester, provider, coordinator, watcher];
        for (uint256 i = 0; i < parties.length; ++i) {
            odd.setBlocked(parties[i]);
            if (i == 1) _must(helper, _answer(second));
        }
        VM.warp(START + RESPONSE + 1);
        _timeout(first);
        uint256 kept = _amount(WORK) - receipts[0].price + _amount(CHECKS) + FEE;
        assertEq(_escrow(requester), FUNDS - kept + BOND_SLASH / 4, "refund");
        // A blocked requester takes its escrow elsewhere.
        odd.setBlocked(requester);
        VM.prank(requester);
        settlement.requestWithdraw(FUNDS - kept);
        VM.warp(START + RESPONSE + 1 + EXIT_DELAY);
        VM.prank(requester);
        settlement.withdraw(BOB);
        assertEq(odd.balanceOf(BOB), FUNDS - kept, "out");
    }

    /// @notice Payees that cannot be paid: one that the token refuses, one that is code without a
    /// way to take anything.
    function test_ABadPayeeStopsNoBatchAndNobodyElse() external {
        OddToken odd = _restartWithOddToken();
        address[] memory list = new address[](3);
        (list[0], list[1], list[2]) = (helper, address(odd), provider);
        odd.setBlocked(helper);
        bytes memory lanes = bytes.concat(_lane(0, 0, 1, 5), _lane(0, 1, 1, 6), _lane(0, 2, 1, 7));
        VM.prank(coordinator);
        settlement.postBatch(NEVER, DATA, ROOT, _one(requester), list, lanes);
        VM.warp(START + 2 * EPOCH);
        VM.expectRevert(abi.encodeWithSelector(OddToken.Blocked.selector, helper));
        settlement.claim(helper);
        assertEq(settlement.claim(address(odd)), 6, "code is paid where it is");
        assertEq(settlement.claim(provider), 7, "and the honest one");
        assertEq(settlement.payeeOf(helper).available, 5, "nothing is lost by trying");
    }

    /// @notice A hook in a payout may end a dispute: each function leaves the books in order.
    function test_ATokenHookMayEndADispute() external {
        OddToken odd = _restartWithOddToken();
        _postSheet();
        Asked memory asked = _askLeaf(WORK, 0);
        VM.warp(START + 2 * EPOCH);
        odd.setHook(
            address(disputes), abi.encodeCall(disputes.timeout, (asked.id, asked.challenge))
        );
        assertEq(settlement.claim(provider), _amount(WORK) - receipts[0].price, "the claim");
        assertTrue(odd.hookOk(), "the timeout inside it");
        assertEq(settlement.held(), 0, "held");
        odd.setHook(address(0), "");
        assertEq(settlement.claim(verifier), _amount(CHECKS), "others");
        _assertConserved();
    }

    /* REORGANIZATIONS */

    /// @notice The same batch mined again in another second is another batch: what was said about the
    /// first is refused, and nothing is lost by saying it.
    function test_AReorganizedBatchIsAnotherBatch() external {
        uint256 fork = VM.snapshotState();
        _postSheet();
        bytes32 old = settlement.batchOf(coordinator, 0);
        bytes memory ready = abi.encodeCall(disputes.challengeLeaf, (batch, _opening(WORK, 0)));
        VM.revertToState(fork);
        VM.warp(START + 12);
        _postSheet();
        bytes32 present = settlement.batchOf(coordinator, 0);
        assertTrue(present != old, "another commitment");
        _refuse(
            watcher, ready, abi.encodeWithSelector(ErrorsLib.UnknownBatch.selector, present, old)
        );
        assertEq(_escrow(watcher), FUNDS, "no bond is lost");
        _must(helper, _answer(_askLeaf(WORK, 0)));
    }

    /// @notice Two batches mined in the other order change their numbers, and with them which of two
    /// payments is the earlier: one of them is void all the same.
    function test_BatchesInAnotherOrderKeepOnePayment() external {
        _postSheet();
        IDisputes.Batch memory first = batch;
        IDisputes.Opening memory opening = _opening(WORK, 0);
        sheet[WORK].pop();
        _postSheet();
        IDisputes.Evidence memory none;
        IDisputes.Opening memory later = _opening(WORK, 0);
        _refuse(
            helper,
            abi.encodeCall(disputes.proveDouble, (batch, later, first, opening, none)),
            _error(ErrorsLib.NoFault.selector)
        );
        _must(helper, abi.encodeCall(disputes.proveDouble, (first, opening, batch, later, none)));
        assertEq(_bondOf(coordinator), MIN_BOND - BOND_SLASH, "whichever is the later");
    }

    /* SILENCE */

    /// @notice Everybody but one has gone, in the middle of everything. Each is the one in turn.
    function test_G3_EachPartyGetsItsMoneyOutAlone() external {
        _postSheet();
        Asked memory leaf = _askLeaf(CHECKS, 0);
        Asked memory lane = _askWithheld(WORK, 1);
        uint256 id = _accuse(0);
        VM.prank(requester);
        settlement.requestWithdraw(1_000e6);
        VM.prank(coordinator);
        settlement.requestUnbond(MIN_BOND);
        VM.prank(COLD);
        settlement.requestUnstake(provider, MIN_STAKE - STAKE_SLASH);
        VM.warp(START + EXIT_DELAY);
        VM.prank(requester);
        assertEq(settlement.withdraw(requester), 1_000e6, "requester");
        VM.prank(coordinator);
        assertEq(settlement.unbond(coordinator), MIN_BOND, "coordinator");
        VM.prank(COLD);
        assertEq(settlement.unstake(provider), MIN_STAKE - STAKE_SLASH, "provider");
        assertEq(settlement.claim(verifier), CHECK_PRICE, "verifier");
        VM.prank(watcher);
        disputes.timeout(leaf.id, leaf.challenge);
        VM.prank(watcher);
        disputes.timeout(lane.id, lane.challenge);
        _endCaseAlone(id);
        assertEq(_escrow(watcher), FUNDS, "watcher: all bonds");
        VM.prank(COLD);
        settlement.requestUnstake(provider, STAKE_SLASH);
        VM.warp(VM.getBlockTimestamp() + EXIT_DELAY);
        VM.prank(COLD);
        assertEq(settlement.unstake(provider), STAKE_SLASH, "provider: what the case held");
        assertEq(settlement.held(), 0, "nothing is stuck");
        _assertExitsOf(requester);
        _assertExitsOf(watcher);
    }

    /* EXHAUSTION */

    function test_TheCodeFitsOnEveryChain() external view {
        assertTrue(address(settlement).code.length < CODE_SIZE_MAX, "settlement");
        assertTrue(address(disputes).code.length < CODE_SIZE_MAX, "disputes");
        assertTrue(address(jury).code.length < CODE_SIZE_MAX, "jury");
    }

    function test_DisputesAboutTheLargestBatchFitInOneTransaction() external {
        while (sheet.length < 256) {
            sheet.push();
            sheet[sheet.length - 1].push(sheet[WORK][0]);
            payees.push(address(uint160(0xFACE00 + sheet.length)));
        }
        _postSheet();
        IDisputes.Opening memory first = _opening(WORK, 0);
        IDisputes.Opening memory last = _opening(255, 0);
        Asked memory asked = _askWithheld(WORK, 1);
        bytes memory answer = _answer(asked);
        IDisputes.Evidence memory none;
        bytes memory double_ =
            abi.encodeCall(disputes.proveDouble, (batch, first, batch, last, none));
        _mustFit(helper, answer);
        _mustFit(helper, double_);
        assertTrue(_leaf(255, 0).isVoid, "the last lane is disputed like any other");
    }

    /* INTERNAL */

    function _restartWithOddToken() internal returns (OddToken odd) {
        odd = new OddToken(6);
        token = TestToken(address(odd));
        _deploy(_config(address(odd)));
        _setUpParties();
    }

    function _accuse(uint32 index) internal returns (uint256 id) {
        bytes memory signature = _sign(provider, Hashing.hash(receipts[index]));
        IDisputes.Opening memory opening = _opening(WORK, index);
        VM.prank(watcher);
        id = jury.accuse(batch, opening, receipts[index], signature, 0);
    }

    /// @dev No verifier may judge, so each jury is empty; whoever waits ends the case.
    function _endCaseAlone(uint256 id) internal {
        address[] memory none = new address[](0);
        uint256 number = 1000;
        bytes memory header = _header(keccak256("mix"));
        for (uint256 level = 0; level < 3; ++level) {
            number += SEED_DELAY + 1;
            VM.roll(number);
            VM.setBlockhash(number - 1, keccak256(header));
            VM.prank(watcher);
            jury.seatJury(id, header);
            VM.warp(VM.getBlockTimestamp() + RESPONSE + 1);
            VM.prank(watcher);
            if (level < 2) jury.escalate(id);
            else jury.close(id, none);
        }
    }

    /// @dev All of an account's escrow leaves within EXIT_DELAY, by its own two calls.
    function _assertExitsOf(address account) internal {
        uint256 all = _escrow(account);
        uint256 before = token.balanceOf(account);
        VM.prank(account);
        settlement.requestWithdraw(all);
        VM.warp(VM.getBlockTimestamp() + EXIT_DELAY);
        VM.prank(account);
        settlement.withdraw(account);
        assertEq(token.balanceOf(account) - before, all, "out");
    }

    function _mustFit(address caller, bytes memory call_) internal {
        uint256 before = gasleft();
        _must(caller, call_);
        uint256 gas = before - gasleft() + 21_000 + 16 * call_.length;
        assertTrue(gas < TRANSACTION_GAS_MAX, "gas of one transaction");
    }
}
