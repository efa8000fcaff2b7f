// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {IDisputes} from "../../src/interfaces/IDisputes.sol";
import {ISettlement} from "../../src/interfaces/ISettlement.sol";
import {ErrorsLib} from "../../src/libraries/ErrorsLib.sol";
import {Hashing} from "../../src/libraries/Hashing.sol";
import {Scene} from "../Scene.sol";
import {VM} from "../Vm.sol";

/// @notice A batch with each kind of payment, all of it right until a test changes the sheet: lane 0
/// three units of work, lane 1 two checks, lane 2 the fee. So one leaf and one lane are padding.
abstract contract Market is Scene {
    uint64 internal constant FUNDS = 10_000e6;
    uint16 internal constant WORK = 0;
    uint16 internal constant CHECKS = 1;
    uint16 internal constant FEES = 2;

    /// @notice A challenge as whoever watches the logs knows it.
    struct Asked {
        uint256 id;
        IDisputes.Challenge challenge;
    }

    address internal requester;
    address internal coordinator;
    address internal provider;
    address internal verifier;
    address internal watcher;
    address internal helper;

    Hashing.Order internal order;
    Hashing.Receipt[] internal receipts;
    Hashing.Attestation[] internal attestations;
    address[] internal payees;
    /// @dev Leaves by lane; lane i pays payees[i].
    Hashing.Leaf[][] internal sheet;
    IDisputes.Batch internal batch;

    function setUp() public virtual override {
        super.setUp();
        _setUpParties();
        _writeSheet();
    }

    function _setUpParties() internal {
        (requester, coordinator) = (_account("requester"), _account("coordinator"));
        (provider, verifier) = (_account("provider"), _account("verifier"));
        (watcher, helper) = (_account("watcher"), _account("helper"));
        _deposit(requester, FUNDS);
        _deposit(watcher, FUNDS);
        _bond(coordinator, MIN_BOND);
        _stakeProvider(provider, COLD, MIN_STAKE);
        _stakeVerifier(verifier);
    }

    function _stakeVerifier(address account) internal {
        _fund(account, MIN_STAKE);
        VM.prank(account);
        settlement.stakeVerifier(MIN_STAKE, account, PEER);
    }

    /* SHEET */

    /// @dev A new order and its payments, each right.
    function _writeSheet() internal {
        order = _order(requester, coordinator);
        delete receipts;
        delete attestations;
        delete payees;
        delete sheet;
        for (uint256 i = 0; i < 3; ++i) {
            sheet.push();
        }
        payees.push(provider);
        payees.push(verifier);
        payees.push(coordinator);
        for (uint32 i = 0; i < 3; ++i) {
            receipts.push(_receipt(order, i, provider, UNIT_PRICE - i));
            sheet[WORK].push(_workLeaf(receipts[i]));
        }
        for (uint32 i = 0; i < 2; ++i) {
            attestations.push(_attestation(receipts[i], 1));
            sheet[CHECKS].push(_checkLeaf(order.units + i, attestations[i]));
        }
        sheet[FEES].push(_feeLeaf());
    }

    function _checkLeaf(uint32 line, Hashing.Attestation memory attestation)
        internal
        view
        returns (Hashing.Leaf memory)
    {
        return Hashing.Leaf({
            orderHash: Hashing.hash(order),
            line: line,
            evidenceHash: Hashing.hash(attestation),
            price: CHECK_PRICE
        });
    }

    function _feeLeaf() internal view returns (Hashing.Leaf memory) {
        bytes32 orderHash = Hashing.hash(order);
        return Hashing.Leaf({
            orderHash: orderHash,
            line: order.units + order.checks,
            evidenceHash: Hashing.feeEvidence(orderHash),
            price: FEE
        });
    }

    function _sheetDraft() internal view returns (Draft memory draft) {
        draft.requesters = _one(requester);
        draft.payees = payees;
        draft.lanes = new LaneDraft[](sheet.length);
        for (uint16 i = 0; i < sheet.length; ++i) {
            draft.lanes[i] = LaneDraft({requester: 0, payee: i, leaves: sheet[i]});
        }
    }

    function _postSheet() internal {
        batch = _post(coordinator, _sheetDraft());
    }

    function _opening(uint16 lane, uint32 index) internal view returns (IDisputes.Opening memory) {
        return _open(_sheetDraft(), lane, index);
    }

    function _placeOf(uint16 lane, uint32 index) internal view returns (IDisputes.Place memory) {
        return _place(batch, _sheetDraft(), lane, index);
    }

    function _evidence(uint16 lane, uint32 index)
        internal
        view
        returns (IDisputes.Evidence memory evidence)
    {
        if (lane == WORK && index < receipts.length) {
            return _workEvidence(order, receipts[index]);
        }
        evidence.order = order;
        evidence.orderSignature = _sign(requester, Hashing.hash(order));
        if (lane == CHECKS) {
            evidence = _workEvidence(order, receipts[index]);
            evidence.attestation = attestations[index];
            evidence.attestationSignature = _sign(verifier, Hashing.hash(attestations[index]));
        }
    }

    /* CHALLENGES */

    function _askLeaf(uint16 lane, uint32 index) internal returns (Asked memory asked) {
        IDisputes.Opening memory opening = _opening(lane, index);
        VM.prank(watcher);
        asked.id = disputes.challengeLeaf(batch, opening);
        asked.challenge = _challenge(lane, index);
        asked.challenge.leafHash = Hashing.hash(opening.leaf);
        asked.challenge.price = opening.leaf.price;
    }

    function _askWithheld(uint16 lane, uint32 index) internal returns (Asked memory asked) {
        VM.prank(watcher);
        asked.id = disputes.challengeWithheld(batch, lane, index);
        asked.challenge = _challenge(lane, index);
    }

    function _challenge(uint16 lane, uint32 index)
        internal
        view
        returns (IDisputes.Challenge memory challenge)
    {
        challenge.place = _placeOf(lane, index);
        challenge.challenger = watcher;
        challenge.deadline = uint64(VM.getBlockTimestamp()) + RESPONSE;
    }

    /// @dev The call that answers a challenge with the sheet's evidence.
    function _answer(Asked memory asked) internal view returns (bytes memory) {
        IDisputes.Place memory place = asked.challenge.place;
        return _answerWith(asked, _evidence(place.lane, place.index));
    }

    function _answerWith(Asked memory asked, IDisputes.Evidence memory evidence)
        internal
        view
        returns (bytes memory)
    {
        IDisputes.Place memory place = asked.challenge.place;
        IDisputes.Opening memory opening = _opening(place.lane, place.index);
        if (asked.challenge.leafHash != 0) {
            return
                abi.encodeCall(
                    disputes.respond, (asked.id, asked.challenge, opening.leaf, evidence)
                );
        }
        return abi.encodeCall(
            disputes.respondWithheld, (asked.id, asked.challenge, batch, opening, evidence)
        );
    }

    function _timeout(Asked memory asked) internal {
        disputes.timeout(asked.id, asked.challenge);
    }

    function _proveBadLeaf(uint16 lane, uint32 index) internal {
        IDisputes.Opening memory opening = _opening(lane, index);
        VM.prank(helper);
        disputes.proveBadLeaf(batch, opening, order);
    }

    /* CALLS */

    function _must(address caller, bytes memory call_) internal {
        VM.prank(caller);
        (bool ok, bytes memory answer) = address(disputes).call(call_);
        if (ok) return;
        assembly ("memory-safe") {
            revert(add(answer, 32), mload(answer))
        }
    }

    /// @dev Refused, and with exactly this error.
    function _refuse(address caller, bytes memory call_, bytes memory reason) internal {
        VM.prank(caller);
        (bool ok, bytes memory answer) = address(disputes).call(call_);
        assertTrue(!ok, "must be refused");
        if (keccak256(answer) == keccak256(reason)) return;
        assembly ("memory-safe") {
            revert(add(answer, 32), mload(answer))
        }
    }

    function _refuseAnswer(Asked memory asked, bytes memory reason) internal {
        _refuse(helper, _answer(asked), reason);
    }

    /* LEDGER */

    function _escrow(address account) internal view returns (uint256) {
        return settlement.requesterOf(account).balance;
    }

    /// @dev All credit of a payee, matured or not.
    function _credit(address account) internal view returns (uint256) {
        ISettlement.Payee memory payee = settlement.payeeOf(account);
        return uint256(payee.available) + payee.prev + payee.cur;
    }

    function _bondOf(address account) internal view returns (uint256) {
        return settlement.coordinatorOf(account).bond;
    }

    function _stakeOf(address account) internal view returns (uint256) {
        return settlement.operatorOf(account).stake;
    }

    function _amount(uint16 lane) internal view returns (uint256 amount) {
        for (uint256 i = 0; i < sheet[lane].length; ++i) {
            amount += sheet[lane][i].price;
        }
    }

    function _leaf(uint16 lane, uint32 index) internal view returns (IDisputes.LeafRecord memory) {
        return disputes.leafOf(batch.coordinator, batch.seq, lane, index);
    }

    function _laneRecord(uint16 lane) internal view returns (IDisputes.LaneRecord memory) {
        return disputes.laneOf(batch.coordinator, batch.seq, lane);
    }

    /// @dev What every account of this market has, and what is nobody's, is what the contract holds.
    function _assertConserved() internal view {
        address[6] memory accounts = [requester, coordinator, provider, verifier, watcher, helper];
        uint256 sum = settlement.held() + settlement.burnt();
        for (uint256 i = 0; i < accounts.length; ++i) {
            sum += _escrow(accounts[i]) + _credit(accounts[i]) + _bondOf(accounts[i])
            + _stakeOf(accounts[i]);
        }
        assertEq(token.balanceOf(address(settlement)), sum, "conserved");
    }

    /* REASONS */

    function _error(bytes4 selector) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(selector);
    }

    function _error(bytes4 selector, uint256 expected, uint256 actual)
        internal
        pure
        returns (bytes memory)
    {
        return abi.encodeWithSelector(selector, expected, actual);
    }

    function _wrongHash(bytes32 what, bytes32 expected, bytes32 actual)
        internal
        pure
        returns (bytes memory)
    {
        return abi.encodeWithSelector(ErrorsLib.WrongHash.selector, what, expected, actual);
    }

    function _wrongSigner(address expected, address actual) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(ErrorsLib.WrongSigner.selector, expected, actual);
    }

    function _faulty(IDisputes.LeafFault fault) internal pure returns (bytes memory) {
        return abi.encodeWithSelector(ErrorsLib.FaultyLeaf.selector, uint8(fault));
    }

    function _unknown(uint256 id, IDisputes.Challenge memory challenge)
        internal
        view
        returns (bytes memory)
    {
        return abi.encodeWithSelector(
            ErrorsLib.UnknownChallenge.selector,
            disputes.challengeOf(id),
            keccak256(abi.encode(challenge))
        );
    }
}
