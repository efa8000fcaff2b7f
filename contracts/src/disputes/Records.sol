// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IDisputes} from "../interfaces/IDisputes.sol";
import {ISettlement} from "../interfaces/ISettlement.sol";
import {ErrorsLib} from "../libraries/ErrorsLib.sol";
import {EventsLib} from "../libraries/EventsLib.sol";
import {Hashing} from "../libraries/Hashing.sol";
import {Lanes} from "../libraries/Lanes.sol";
import {SumTree} from "../libraries/SumTree.sol";
import {Judge} from "./Judge.sol";

/// @title Records
/// @notice Finds a leaf in a batch, and keeps account of what was taken out of its lane.
/// @dev A leaf's price leaves the payee's credit at most once: with the first dispute that holds it,
/// or when it is void. It comes back when the last dispute over it ends and it is not void. While the
/// whole lane is held, what is taken for a leaf comes out of that. So `aside` never passes the
/// lane's amount, whatever is disputed in whatever order.
abstract contract Records is IDisputes, Judge {
    /* STORAGE */

    mapping(bytes32 leafKey => LeafRecord) internal _leaves;
    mapping(bytes32 laneKey => LaneRecord) internal _lanes;
    mapping(uint64 seq => bytes32) internal _directs;

    /* VIEWS */

    /// @inheritdoc IDisputes
    function directOf(uint64 seq) external view returns (bytes32) {
        return _directs[seq];
    }

    /// @inheritdoc IDisputes
    function leafOf(address coordinator, uint64 seq, uint16 lane, uint32 index)
        external
        view
        returns (LeafRecord memory)
    {
        return _leaves[_hashKey(_hashKey(coordinator, seq, lane), index)];
    }

    /// @inheritdoc IDisputes
    function laneOf(address coordinator, uint64 seq, uint16 lane)
        external
        view
        returns (LaneRecord memory)
    {
        return _lanes[_hashKey(coordinator, seq, lane)];
    }

    /* INTERNAL: FINDING */

    /// @dev The place of a leaf that the opening proves to be in the batch.
    function _open(Batch calldata batch, Opening calldata opening)
        internal
        view
        returns (Place memory place)
    {
        uint256 leaves;
        (place, leaves) = _locate(batch, opening.lane, opening.index);
        // Padding: without this, a leaf beyond the count could carry money that no index shows.
        bool isPadding = opening.index >= leaves;
        if (isPadding && !_isEmpty(opening.leaf)) {
            revert ErrorsLib.BadIndex(leaves, opening.index);
        }
        SumTree.Node memory top = SumTree.Node({
            hash: isPadding ? bytes32(0) : Hashing.hash(opening.leaf), sum: opening.leaf.price
        });
        uint256 levels = SumTree.depth(leaves);
        uint256 above = SumTree.depth(Lanes.count(batch.lanes));
        _checkLength(levels + above, opening.hashes.length);
        _checkLength(levels + above, opening.sums.length);
        SumTree.climb(top, opening.index, levels, opening.hashes, opening.sums, 0);
        if (top.sum != place.laneAmount) revert ErrorsLib.BadOpening(batch.root, top.hash);
        SumTree.climb(top, opening.lane, above, opening.hashes, opening.sums, levels);
        if (top.hash != batch.root || top.sum != _total(batch.lanes)) {
            revert ErrorsLib.BadOpening(batch.root, top.hash);
        }
    }

    /// @dev The place of an index of a batch that was posted, and the count of leaves in its lane.
    function _locate(Batch calldata batch, uint16 lane, uint32 index)
        internal
        view
        returns (Place memory place, uint256 leaves)
    {
        _checkPosted(batch);
        uint256 lanes = Lanes.count(batch.lanes);
        if (lane >= lanes) revert ErrorsLib.BadIndex(lanes, lane);
        uint256 requester;
        uint256 payee;
        uint256 amount;
        (requester, payee, leaves, amount) = Lanes.read(batch.lanes, lane);
        uint256 width = 1 << SumTree.depth(leaves);
        if (index >= width) revert ErrorsLib.BadIndex(width, index);
        place = Place({
            coordinator: batch.coordinator,
            seq: batch.seq,
            postedAt: batch.postedAt,
            lane: lane,
            index: index,
            requester: batch.requesters[requester],
            payee: batch.payees[payee],
            laneAmount: uint64(amount)
        });
    }

    function _checkPosted(Batch calldata batch) private view {
        bytes32 expected = batch.coordinator == address(this)
            ? _directs[batch.seq]
            : _SETTLEMENT.batchOf(batch.coordinator, batch.seq);
        bytes32 actual = _hashBatch(batch);
        if (expected == 0 || expected != actual) revert ErrorsLib.UnknownBatch(expected, actual);
    }

    function _hashBatch(Batch calldata batch) private pure returns (bytes32) {
        return keccak256(
            abi.encode(
                batch.postedAt,
                batch.dataHash,
                batch.root,
                batch.requesters,
                batch.payees,
                batch.lanes
            )
        );
    }

    function _checkLength(uint256 expected, uint256 actual) private pure {
        if (expected != actual) revert ErrorsLib.BadPathLength(expected, actual);
    }

    function _total(bytes calldata lanes) private pure returns (uint256 total) {
        for (uint256 i = 0; i < Lanes.count(lanes); ++i) {
            (,,, uint256 amount) = Lanes.read(lanes, i);
            total += amount;
        }
    }

    function _isEmpty(Hashing.Leaf calldata leaf) internal pure returns (bool) {
        return leaf.orderHash == 0 && leaf.line == 0 && leaf.evidenceHash == 0 && leaf.price == 0;
    }

    function _isDirect(Place memory place) internal view returns (bool) {
        return place.coordinator == address(this);
    }

    function _lane(Place memory place) internal view returns (LaneRecord storage) {
        return _lanes[_hashKey(place.coordinator, place.seq, place.lane)];
    }

    function _leaf(Place memory place) internal view returns (LeafRecord storage) {
        return _leaves[_hashKey(_hashKey(place.coordinator, place.seq, place.lane), place.index)];
    }

    function _hashKey(address coordinator, uint64 seq, uint16 lane) private pure returns (bytes32) {
        return keccak256(abi.encode(coordinator, seq, lane));
    }

    function _hashKey(bytes32 laneKey, uint32 index) private pure returns (bytes32) {
        return keccak256(abi.encode(laneKey, index));
    }

    /* INTERNAL: LEAVES */

    /// @dev Holds a leaf's price for one more dispute.
    function _holdLeaf(Place memory place, uint64 price) internal {
        LeafRecord storage leaf = _leaf(place);
        if (leaf.isVoid || _lane(place).isVoid) revert ErrorsLib.AlreadyVoid();
        if (leaf.open++ == 0) _setAside(place, price);
    }

    /// @dev Ends one dispute over a leaf. With the last, a price that is not void goes back.
    function _releaseLeaf(Place memory place, uint64 price) internal {
        LeafRecord storage leaf = _leaf(place);
        if (--leaf.open != 0 || leaf.isVoid) return;
        LaneRecord storage lane = _lane(place);
        if (lane.isVoid) {
            // Void with its lane: a leaf that was paid after all could be paid twice, because no
            // payment out of a void lane counts against another.
            _refund(place, price, Cause.WITHHELD);
        } else if (lane.open != 0) {
            // The whole lane is still held, and this leaf is of it.
            lane.held += price;
        } else {
            lane.aside -= price;
            _give(ISettlement.Pocket.CREDIT, place.payee, price, place.postedAt);
        }
    }

    /// @dev Gives a leaf's price back to its requester, for good.
    function _voidLeaf(Place memory place, uint64 price, Cause cause) internal {
        LeafRecord storage leaf = _leaf(place);
        if (leaf.isVoid) revert ErrorsLib.AlreadyVoid();
        if (leaf.open == 0) {
            if (_lane(place).isVoid) revert ErrorsLib.AlreadyVoid();
            _setAside(place, price);
        }
        _refund(place, price, cause);
    }

    function _refund(Place memory place, uint64 price, Cause cause) private {
        _leaf(place).isVoid = true;
        _give(ISettlement.Pocket.ESCROW, place.requester, price, 0);
        emit EventsLib.LeafVoided(
            place.coordinator, place.seq, place.lane, place.index, price, cause
        );
    }

    /// @dev Takes a leaf's price out of its lane: from what is held of the whole lane, or else from
    /// the payee's credit, which fails once that has matured.
    function _setAside(Place memory place, uint64 price) private {
        LaneRecord storage lane = _lane(place);
        if (lane.open != 0) {
            lane.held -= price;
            return;
        }
        lane.aside += price;
        // The sum tree makes this impossible; money must not depend on that alone.
        if (lane.aside > place.laneAmount) {
            revert ErrorsLib.LaneExceeded(place.laneAmount, lane.aside);
        }
        // Also when it is nothing: unpaid work is too old to be disputed when paid work is.
        _SETTLEMENT.take(ISettlement.Pocket.CREDIT, place.payee, price, place.postedAt);
    }

    /* INTERNAL: LANES */

    /// @dev Holds all that is left of a lane for one more challenge.
    function _holdLane(Place memory place) internal {
        LaneRecord storage lane = _lane(place);
        if (lane.isVoid) revert ErrorsLib.AlreadyVoid();
        if (lane.open++ != 0) return;
        uint64 rest = place.laneAmount - lane.aside;
        lane.aside = place.laneAmount;
        lane.held = rest;
        _take(ISettlement.Pocket.CREDIT, place.payee, rest, place.postedAt);
    }

    /// @dev Ends one challenge of a lane. With the last, what is not void goes back.
    function _releaseLane(Place memory place) internal {
        LaneRecord storage lane = _lane(place);
        if (--lane.open != 0 || lane.isVoid) return;
        uint64 rest = lane.held;
        lane.held = 0;
        lane.aside -= rest;
        _give(ISettlement.Pocket.CREDIT, place.payee, rest, place.postedAt);
    }

    /// @dev Gives all that is held of a lane back to its requester, for good.
    function _voidLane(Place memory place) internal {
        LaneRecord storage lane = _lane(place);
        uint64 rest = lane.held;
        lane.held = 0;
        lane.isVoid = true;
        _give(ISettlement.Pocket.ESCROW, place.requester, rest, 0);
        emit EventsLib.LaneVoided(place.coordinator, place.seq, place.lane, rest);
    }

    /* INTERNAL: SLASHING */

    /// @dev Slashes the coordinator of a faulty lane, once.
    function _slashCoordinator(Place memory place, address reporter) internal {
        LaneRecord storage lane = _lane(place);
        if (lane.isSlashed) return;
        lane.isSlashed = true;
        uint64 amount = _SETTLEMENT.BOND_SLASH();
        uint64 taken = _take(ISettlement.Pocket.BOND, place.coordinator, amount, 0);
        _splitSlash(place.coordinator, taken, reporter, place.requester, new address[](0));
    }
}
