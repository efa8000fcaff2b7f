// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {IDisputes} from "../../src/interfaces/IDisputes.sol";
import {ErrorsLib} from "../../src/libraries/ErrorsLib.sol";
import {Hashing} from "../../src/libraries/Hashing.sol";
import {Scene} from "../Scene.sol";
import {VM} from "../Vm.sol";

/// @notice Each test is one way in which money was once lost, as short as it can be told.
contract RegressionsTest is Scene {
    address internal requester;
    address internal provider;
    address internal coordinator;
    address internal watcher;

    function setUp() public override {
        super.setUp();
        requester = _account("requester");
        provider = _account("provider");
        coordinator = _account("coordinator");
        watcher = _account("watcher");
        _deposit(requester, 1_000e6);
        _deposit(watcher, 100e6);
        _bond(coordinator, MIN_BOND);
    }

    /// @notice Nobody can answer for padding with evidence, so nobody may ask for it: an honest
    /// coordinator was slashed for every lane whose leaves are no power of two.
    function test_PaddingCannotBeChallengedAsALeaf() external {
        (Draft memory draft, IDisputes.Batch memory batch,,) = _postWork(3);
        IDisputes.Opening memory padding = _open(draft, 0, 3);
        VM.prank(watcher);
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.NoFault.selector));
        disputes.challengeLeaf(batch, padding);
    }

    /// @notice A leaf that names no order is not padding: its poster could show it without evidence,
    /// which made it right for good.
    function test_LeafOfNoOrderIsNotPadding() external {
        Hashing.Leaf memory leaf;
        leaf.price = 500e6;
        Draft memory draft = _draft(requester, provider, _leaves(leaf));
        IDisputes.Batch memory batch = _post(coordinator, draft);
        VM.prank(watcher);
        uint256 id = disputes.challengeWithheld(batch, 0, 0);
        IDisputes.Challenge memory challenge = _challenge(_place(batch, draft, 0, 0), 0, 0);
        IDisputes.Evidence memory none;
        bytes32 noOrder = Hashing.hash(none.order);
        VM.expectRevert(
            abi.encodeWithSelector(
                ErrorsLib.WrongHash.selector, bytes32("order"), bytes32(0), noOrder
            )
        );
        disputes.respondWithheld(id, challenge, batch, _open(draft, 0, 0), none);
    }

    /// @notice A leaf that was held when its lane became void was paid when it was answered, but
    /// counted as void where a second payment of it was to be proven.
    function test_LeafOfAVoidLaneIsNotPaidAgain() external {
        (
            Draft memory draft,
            IDisputes.Batch memory batch,
            Hashing.Order memory order,
            Hashing.Receipt memory receipt
        ) = _postWork(2);
        IDisputes.Opening memory opening = _open(draft, 0, 0);
        VM.prank(watcher);
        uint256 withheld = disputes.challengeWithheld(batch, 0, 1);
        IDisputes.Place memory place = _place(batch, draft, 0, 1);
        IDisputes.Challenge memory lane = _challenge(place, 0, 0);
        VM.warp(START + 1);
        VM.prank(watcher);
        uint256 id = disputes.challengeLeaf(batch, opening);
        IDisputes.Challenge memory challenge =
            _challenge(_place(batch, draft, 0, 0), Hashing.hash(opening.leaf), receipt.price);
        VM.warp(START + RESPONSE + 1);
        disputes.timeout(withheld, lane);
        disputes.respond(id, challenge, opening.leaf, _workEvidence(order, receipt));
        assertEq(settlement.payeeOf(provider).cur, 0, "nothing of a void lane is paid");
        uint256 refunded = 1_000e6 + BOND_SLASH / 4;
        assertEq(settlement.requesterOf(requester).balance, refunded, "all goes back");
        assertTrue(disputes.leafOf(coordinator, 0, 0, 0).isVoid, "the leaf is void with its lane");
        assertEq(settlement.held(), 0, "held");
    }

    /// @notice All that a direct settlement takes is known to many. Anybody could settle what a batch
    /// had paid, prove it double, and so have an honest provider slashed.
    function test_NobodyButTheProviderSettlesDirectly() external {
        _stakeProvider(provider, provider, MIN_STAKE);
        (,, Hashing.Order memory order, Hashing.Receipt memory receipt) = _postWork(1);
        Hashing.Assignment memory assignment = Hashing.Assignment({
            orderHash: receipt.orderHash,
            unit: 0,
            provider: provider,
            maxPrice: UNIT_PRICE,
            reservedUntil: receipt.finishedAt
        });
        bytes memory assigned = _sign(coordinator, Hashing.hash(assignment));
        bytes memory accepted = _sign(requester, Hashing.acceptance(Hashing.hash(receipt)));
        IDisputes.Evidence memory evidence = _workEvidence(order, receipt);
        VM.warp(order.settleBy + 1);
        VM.prank(requester);
        VM.expectRevert(
            abi.encodeWithSelector(ErrorsLib.NotAuthorized.selector, provider, requester)
        );
        disputes.settleDirect(evidence, assignment, assigned, accepted);
    }

    /* INTERNAL */

    /// @dev A lane of `count` signed units; the documents of the first.
    function _postWork(uint32 count)
        internal
        returns (
            Draft memory draft,
            IDisputes.Batch memory batch,
            Hashing.Order memory order,
            Hashing.Receipt memory first
        )
    {
        order = _order(requester, coordinator);
        Hashing.Leaf[] memory leaves = new Hashing.Leaf[](count);
        for (uint32 i = 0; i < count; ++i) {
            leaves[i] = _workLeaf(_receipt(order, i, provider, UNIT_PRICE));
        }
        first = _receipt(order, 0, provider, UNIT_PRICE);
        draft = _draft(requester, provider, leaves);
        batch = _post(coordinator, draft);
    }

    function _challenge(IDisputes.Place memory place, bytes32 leafHash, uint64 price)
        internal
        view
        returns (IDisputes.Challenge memory)
    {
        return IDisputes.Challenge({
            place: place,
            leafHash: leafHash,
            price: price,
            challenger: watcher,
            deadline: uint64(VM.getBlockTimestamp()) + RESPONSE
        });
    }
}
