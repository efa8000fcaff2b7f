// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {IDisputes} from "../src/interfaces/IDisputes.sol";
import {ErrorsLib} from "../src/libraries/ErrorsLib.sol";
import {Hashing} from "../src/libraries/Hashing.sol";
import {VM} from "./Vm.sol";
import {Market} from "./disputes/Market.sol";

/// @notice The security checklist: what an auditor of such contracts looks for, and where it is tried.
/// What has its natural place elsewhere stands there:
///
///  1 states only move forward                    here
///  2 timeout after void                          here
///  3 whole-lane void, then proofs beyond it      here
///  4 hidden leaf                                 disputes/Openings.t.sol; here
///  5 revocation of signatures by code            here; disputes/Presign.t.sol
///  6 late timeout                                here; disputes/Timeout.t.sol
///  7 second preimages, several indices           disputes/Openings.t.sol
///  8 replay on other chains and contracts        here; settlement/ClaimTo.t.sol
///  9 malleable signatures, zero signer           disputes/Evidence.t.sol, settlement/ClaimTo.t.sol
/// 10 double settlement                           disputes/Double.t.sol, DirectDisputes.t.sol; here
/// 11 boundaries of price, party and time         disputes/BadLeaf.t.sol, Direct.t.sol
/// 12 conservation                                invariant/; here
/// 13 the account locked is the account seized    here
/// 14 reentrancy                                  settlement/OddTokens.t.sol, disputes/Adversaries.t.sol
/// 15 odd tokens, one bad payee                   the same two
/// 16 rounding and casts                          disputes/Slashing.t.sol, settlement/PostBatch.t.sol
/// 17 griefing                                    disputes/Adversaries.t.sol, settlement/Deposit.t.sol
/// 18 proof theft                                 disputes/Adversaries.t.sol
/// 19 self-report, unbonding, repeated slashing   disputes/Slashing.t.sol
/// 20 verifiers that collude                      disputes/Conflict.t.sol, JuryAttacks.t.sol,
///                                                JuryReceiptAttacks.t.sol
/// 21 reorganized chains                          disputes/Adversaries.t.sol
/// 22 stuck money                                 disputes/Adversaries.t.sol
/// 23 exhaustion                                  disputes/Adversaries.t.sol, Gas.t.sol, DisputeGas.t.sol
/// 24 tests that test nothing                     invariant/: each action counts its successes
///
/// Guarantees: G1, G2, G4, G6, G7 and G11 here, G3 in disputes/Adversaries.t.sol, G7 also in
/// disputes/JuryAttacks.t.sol and JuryReceiptAttacks.t.sol, G8 in disputes/Slashing.t.sol, G10 in settlement/Privileges.t.sol.
contract ChecklistTest is Market {
    /* GUARANTEES */

    /// @notice A coordinator that invents payments: none of it stays spent once anybody says so.
    function test_G1_OnlyTheRequestersSignatureSpendsItsEscrow() external {
        Hashing.Leaf memory forged = sheet[WORK][0];
        forged.orderHash = keccak256("an order that nobody signed");
        forged.price = uint64(FUNDS) - 2 * CHECK_PRICE - FEE;
        delete sheet[WORK];
        sheet[WORK].push(forged);
        _postSheet();
        assertEq(_escrow(requester), 0, "posting looks at solvency only");
        Asked memory asked = _askLeaf(WORK, 0);
        _refuseAnswer(asked, _wrongHash("order", forged.orderHash, Hashing.hash(order)));
        VM.warp(START + RESPONSE + 1);
        _timeout(asked);
        assertEq(_escrow(requester), forged.price + BOND_SLASH / 4, "all of it is back");
        assertEq(_credit(provider), 0, "nobody was paid");
    }

    /// @notice And what it signed is a maximum: see every price in BadLeaf.t.sol.
    function test_G1_NothingIsPaidAboveTheSignedPrice() external {
        sheet[WORK][0].price = UNIT_PRICE + 1;
        _postSheet();
        Asked memory asked = _askLeaf(WORK, 0);
        _refuseAnswer(asked, _faulty(IDisputes.LeafFault.PRICE_TOO_HIGH));
        _proveBadLeaf(WORK, 0);
        _timeout(asked);
        assertEq(_credit(provider), receipts[1].price + receipts[2].price, "the rest only");
        assertEq(_escrow(watcher), FUNDS, "and asking cost nothing");
    }

    /// @notice After every call of a story with all kinds of calls; invariant/ tells random ones.
    function test_G2_HoldingsEqualAllClaimsAfterEveryCall() external {
        sheet[WORK][0].price = UNIT_PRICE + 1;
        _postSheet();
        _assertConserved();
        Asked memory leaf = _askLeaf(WORK, 1);
        _assertConserved();
        Asked memory lane = _askWithheld(WORK, 2);
        _assertConserved();
        _proveBadLeaf(WORK, 0);
        _assertConserved();
        _must(helper, _answer(leaf));
        _assertConserved();
        Asked memory padding = _askWithheld(WORK, 3);
        _assertConserved();
        VM.warp(START + RESPONSE + 1);
        _timeout(lane);
        _assertConserved();
        _timeout(padding);
        _assertConserved();
        assertEq(settlement.held(), 0, "nothing is left in dispute");
        uint256 lost = BOND_SLASH + 2 * FUNDS - _escrow(requester) - _escrow(watcher);
        uint256 gained = _credit(helper) + settlement.burnt() + _amount(CHECKS) + FEE;
        assertEq(lost, gained, "who lost and who gained");
    }

    /// @notice One payment line pays once: Double.t.sol and DirectDisputes.t.sol have every pair.
    function test_G4_ALineThatIsPostedTwicePaysOnce() external {
        _postSheet();
        IDisputes.Batch memory first = batch;
        IDisputes.Opening memory opening = _opening(WORK, 0);
        _postSheet();
        IDisputes.Evidence memory none;
        _must(helper, abi.encodeCall(disputes.proveDouble, (first, opening, batch, opening, none)));
        assertEq(_credit(provider), 2 * _amount(WORK) - receipts[0].price, "once");
    }

    /// @notice Whatever cannot be shown pays nothing: a leaf, a signature, a whole lane.
    function test_G6_MissingEvidencePaysZero() external {
        _postSheet();
        Asked memory unsigned = _askLeaf(CHECKS, 0);
        Asked memory withheld = _askWithheld(WORK, 0);
        IDisputes.Evidence memory evidence = _evidence(CHECKS, 0);
        evidence.attestationSignature = "";
        _refuse(helper, _answerWith(unsigned, evidence), _wrongSigner(verifier, address(0)));
        VM.warp(START + RESPONSE + 1);
        _timeout(unsigned);
        _timeout(withheld);
        VM.warp(START + 2 * EPOCH);
        assertEq(settlement.payeeOf(provider).available, 0, "a withheld lane");
        assertEq(settlement.payeeOf(verifier).available, CHECK_PRICE, "an unsigned check");
    }

    /// @notice Every line and every padding of an honest batch is asked for at once, and answered in the
    /// last second; and each is called wrong. The honest end as if nobody had said anything.
    function test_G7_WhoAnswersLosesNothing() external {
        _postSheet();
        uint256 asks;
        for (uint16 lane = 0; lane < sheet.length; ++lane) {
            for (uint32 index = 0; index < sheet[lane].length; ++index) {
                _refuseFalseProofs(lane, index);
                Asked memory asked = index == 0 ? _askWithheld(lane, index) : _askLeaf(lane, index);
                VM.warp(START + RESPONSE);
                _must(coordinator, _answer(asked));
                VM.warp(START);
                ++asks;
            }
        }
        Asked memory padding = _askWithheld(WORK, 3);
        _must(coordinator, _answer(padding));
        assertEq(_bondOf(coordinator), MIN_BOND, "bond");
        assertEq(_stakeOf(verifier), MIN_STAKE, "stake");
        assertEq(_escrow(watcher), FUNDS - (asks + 1) * CHALLENGE_BOND, "asking for nothing costs");
        for (uint16 lane = 0; lane < sheet.length; ++lane) {
            uint256 earned = lane == FEES ? (asks + 1) * CHALLENGE_BOND : 0;
            assertEq(_credit(payees[lane]), _amount(lane) + earned, "credit");
            assertEq(_laneRecord(lane).aside, 0, "nothing is left aside");
        }
        assertEq(settlement.held(), 0, "held");
    }

    function _refuseFalseProofs(uint16 lane, uint32 index) private {
        IDisputes.Opening memory opening = _opening(lane, index);
        bytes memory reason = _error(ErrorsLib.NoFault.selector);
        _refuse(helper, abi.encodeCall(disputes.proveBadLeaf, (batch, opening, order)), reason);
        IDisputes.Evidence memory none;
        _refuse(
            helper,
            abi.encodeCall(disputes.proveDouble, (batch, opening, batch, opening, none)),
            reason
        );
    }

    /// @notice Words for one chain, contract, order or line are none for another.
    function test_G11_WordsCountOnceAndHereOnly() external {
        _postSheet();
        Asked memory asked = _askLeaf(WORK, 0);
        bytes memory here = _answer(asked);
        bytes32 old = settlement.DOMAIN_SEPARATOR();
        VM.chainId(99);
        assertTrue(settlement.DOMAIN_SEPARATOR() != old, "a fork of the chain has another domain");
        _refuseBySigner(here);
        VM.chainId(31337);
        address settlementHere = address(settlement);
        address disputesHere = address(disputes);
        _deploy(_config(address(token)));
        bytes memory elsewhere = _answer(asked);
        (bool ok, bytes memory reason) = disputesHere.call(elsewhere);
        assertTrue(!ok && bytes4(reason) == ErrorsLib.WrongSigner.selector, "another contract's");
        (ok,) = disputesHere.call(here);
        assertTrue(ok, "this contract's");
        assertTrue(settlementHere != address(settlement), "there were two");
    }

    /* 1 TO 6: BUGS OF FIRST VERSIONS */

    function test_StateRevival() external {
        _postSheet();
        Asked memory asked = _askLeaf(WORK, 0);
        bytes memory answer = _answer(asked);
        VM.warp(START + RESPONSE + 1);
        _timeout(asked);
        uint256 refunded = _escrow(requester);
        bytes memory gone = _unknown(asked.id, asked.challenge);
        _refuse(helper, answer, gone);
        VM.warp(START + OPEN);
        _refuse(helper, answer, gone);
        _refuse(
            watcher,
            abi.encodeCall(disputes.challengeLeaf, (batch, _opening(WORK, 0))),
            _error(ErrorsLib.AlreadyVoid.selector)
        );
        // The index may be asked for again, with its lane; the answer does not bring it back.
        Asked memory again = _askWithheld(WORK, 0);
        _must(helper, _answer(again));
        assertTrue(_leaf(WORK, 0).isVoid, "void is for good");
        assertEq(_escrow(requester), refunded, "one refund");
        assertEq(_credit(provider), _amount(WORK) - receipts[0].price, "no second life");
    }

    function test_TimeoutAfterVoid() external {
        sheet[WORK][0].price = UNIT_PRICE + 1;
        _postSheet();
        Asked memory asked = _askLeaf(WORK, 0);
        _proveBadLeaf(WORK, 0);
        uint256 refunded = _escrow(requester);
        VM.warp(START + RESPONSE + 1);
        _timeout(asked);
        _refuse(
            helper,
            abi.encodeCall(disputes.timeout, (asked.id, asked.challenge)),
            _unknown(asked.id, asked.challenge)
        );
        assertEq(_escrow(requester), refunded, "one refund");
        assertEq(_bondOf(coordinator), MIN_BOND - BOND_SLASH, "one slash");
    }

    /// @notice In lanes of several leaves: what goes back is never more than the lane moved.
    function test_WholeLaneVoidThenLeafProofs() external {
        for (uint32 i = 0; i < 3; ++i) {
            sheet[WORK][i].price = UNIT_PRICE + 1;
        }
        _postSheet();
        uint256 moved = _amount(WORK);
        Asked memory held = _askLeaf(WORK, 1);
        _proveBadLeaf(WORK, 0);
        Asked memory lane = _askWithheld(WORK, 2);
        VM.warp(START + RESPONSE + 1);
        _timeout(lane);
        bytes memory reason = _error(ErrorsLib.AlreadyVoid.selector);
        for (uint32 i = 0; i < 3; i += 2) {
            _refuse(
                helper,
                abi.encodeCall(disputes.proveBadLeaf, (batch, _opening(WORK, i), order)),
                reason
            );
        }
        _proveBadLeaf(WORK, 1);
        _timeout(held);
        uint256 kept = _amount(CHECKS) + FEE;
        assertEq(_escrow(requester), FUNDS - kept + BOND_SLASH / 4, "the lane, and no more");
        assertEq(_laneRecord(WORK).aside, moved, "aside is the lane's amount");
        assertEq(settlement.held(), 0, "held");
        _assertConserved();
    }

    function test_HiddenLeaf() external {
        // The tree holds four leaves, the lane's bytes say three: none opens, so the lane is void.
        Hashing.Leaf memory hidden = sheet[WORK][0];
        hidden.price = 1_000e6;
        sheet[WORK].push(hidden);
        IDisputes.Batch memory made = _makeBatch(coordinator, _sheetDraft());
        made.lanes[7] = 0x03;
        VM.prank(coordinator);
        made.seq = settlement.postBatch(
            NEVER, made.dataHash, made.root, made.requesters, made.payees, made.lanes
        );
        made.postedAt = uint64(START);
        batch = made;
        Asked memory asked = _askWithheld(WORK, 3);
        _refuseAnswer(asked, _error(ErrorsLib.BadIndex.selector, 3, 3));
        VM.warp(START + RESPONSE + 1);
        _timeout(asked);
        uint256 kept = _amount(CHECKS) + FEE;
        assertEq(_escrow(requester), FUNDS - kept + BOND_SLASH / 4, "not overcharged");
    }

    /// @notice A requester that puts code at its address cannot take its signature back.
    function test_SignatureRevocation() external {
        _postSheet();
        Asked memory leaf = _askLeaf(WORK, 0);
        Asked memory lane = _askWithheld(CHECKS, 0);
        address[3] memory signers = [requester, provider, verifier];
        for (uint256 i = 0; i < signers.length; ++i) {
            // Answers every question, EIP-1271's too, with zeros: no.
            VM.etch(signers[i], hex"60206000f3");
        }
        _must(helper, _answer(leaf));
        _must(helper, _answer(lane));
        assertEq(_bondOf(coordinator), MIN_BOND, "the honest coordinator is not slashed");
    }

    function test_LateTimeout() external {
        _postSheet();
        Asked memory asked = _askLeaf(WORK, 0);
        VM.warp(START + 20 * EPOCH);
        settlement.claim(provider);
        _timeout(asked);
        assertEq(_escrow(watcher), FUNDS, "the challenger has its bond");
        uint256 kept = _amount(WORK) - receipts[0].price + _amount(CHECKS) + FEE;
        assertEq(_escrow(requester), FUNDS - kept + BOND_SLASH / 4, "the refund is whole");
    }

    /* 13: WHOSE MONEY */

    function test_TheAccountThatIsLockedIsTheAccountThatIsSeized() external {
        _postSheet();
        _deposit(helper, FUNDS);
        uint256 helperBefore = _escrow(helper);
        Asked memory lost = _askLeaf(WORK, 0);
        Asked memory won = _askLeaf(CHECKS, 0);
        assertEq(_escrow(watcher), FUNDS - 2 * CHALLENGE_BOND, "the challenger's is locked");
        _must(helper, _answer(lost));
        assertEq(_escrow(watcher), FUNDS - 2 * CHALLENGE_BOND, "and seized");
        VM.warp(START + RESPONSE + 1);
        VM.prank(STRANGER);
        disputes.timeout(won.id, won.challenge);
        assertEq(_escrow(watcher), FUNDS - CHALLENGE_BOND, "or given back");
        assertEq(_escrow(helper), helperBefore, "whoever answers or calls pays nothing");
        assertEq(_escrow(STRANGER) + _credit(STRANGER), 0, "and a caller gets nothing");
        assertEq(_stakeOf(provider) + _stakeOf(verifier), 2 * MIN_STAKE, "stakes are untouched");
    }

    /* INTERNAL */

    function _refuseBySigner(bytes memory call_) internal {
        VM.prank(helper);
        (bool ok, bytes memory reason) = address(disputes).call(call_);
        assertTrue(!ok, "must be refused");
        assertTrue(bytes4(reason) == ErrorsLib.WrongSigner.selector, "by the signature");
    }
}
