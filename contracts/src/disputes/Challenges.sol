// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IDisputes} from "../interfaces/IDisputes.sol";
import {ErrorsLib} from "../libraries/ErrorsLib.sol";
import {EventsLib} from "../libraries/EventsLib.sol";
import {Hashing} from "../libraries/Hashing.sol";
import {Evidences} from "./Evidences.sol";

/// @title Challenges
/// @notice Whoever posted a payment must show that it is right, or it goes back.
abstract contract Challenges is Evidences {
    using Hashing for Hashing.Leaf;

    /* STORAGE */

    uint256 private _challengeCount;
    mapping(uint256 id => bytes32) private _challenges;

    /* ACTIONS */

    /// @inheritdoc IDisputes
    function challengeLeaf(Batch calldata batch, Opening calldata opening)
        external
        returns (uint256 id)
    {
        Place memory place = _open(batch, opening);
        // Padding moves nothing, and no evidence in the world would answer for it.
        if (_isEmpty(opening.leaf)) revert ErrorsLib.NoFault();
        id = _challenge(place, opening.leaf.hash(), opening.leaf.price);
        _holdLeaf(place, opening.leaf.price);
    }

    /// @inheritdoc IDisputes
    function challengeWithheld(Batch calldata batch, uint16 lane, uint32 index)
        external
        returns (uint256 id)
    {
        (Place memory place,) = _locate(batch, lane, index);
        id = _challenge(place, 0, 0);
        _holdLane(place);
    }

    /// @inheritdoc IDisputes
    function respond(
        uint256 id,
        Challenge calldata challenge,
        Hashing.Leaf calldata leaf,
        Evidence calldata evidence
    ) external {
        _checkAnswerable(id, challenge);
        _checkHash("leaf", challenge.leafHash, leaf.hash());
        Place memory place = challenge.place;
        if (_leaf(place).isVoid) revert ErrorsLib.AlreadyVoid();
        _checkEvidence(place, leaf, evidence);
        _answer(id, place);
        _releaseLeaf(place, challenge.price);
    }

    /// @inheritdoc IDisputes
    function respondWithheld(
        uint256 id,
        Challenge calldata challenge,
        Batch calldata batch,
        Opening calldata opening,
        Evidence calldata evidence
    ) external {
        _checkAnswerable(id, challenge);
        _checkHash("leaf", challenge.leafHash, 0);
        Place memory place = _open(batch, opening);
        _checkHash("place", keccak256(abi.encode(challenge.place)), keccak256(abi.encode(place)));
        // A leaf that names no order but moves money is no padding.
        // Nor is one that is void already: else a forged lane could be saved leaf by leaf, for one
        // slash, by proving bad whichever leaf is asked for.
        bool isPadding = _isEmpty(opening.leaf);
        if (!isPadding) _checkEvidence(place, opening.leaf, evidence);
        _answer(id, place);
        _releaseLane(place);
    }

    /// @inheritdoc IDisputes
    function timeout(uint256 id, Challenge calldata challenge) external {
        _checkOpen(id, challenge);
        Place memory place = challenge.place;
        bool isLeaf = challenge.leafHash != 0;
        bool isMoot = isLeaf ? _leaf(place).isVoid : _lane(place).isVoid;
        if (!isMoot) _checkOver(challenge.deadline);
        delete _challenges[id];
        _leaf(place).isChallenged = false;
        emit EventsLib.ChallengeEnded(id, false, challenge.challenger);
        if (!isMoot) {
            if (isLeaf) _voidLeaf(place, challenge.price, Cause.UNANSWERED);
            else _voidLane(place);
            _slashCoordinator(place, challenge.challenger);
        }
        if (isLeaf) _releaseLeaf(place, challenge.price);
        else _releaseLane(place);
        _returnBond(challenge.challenger, _SETTLEMENT.CHALLENGE_BOND());
    }

    /* VIEWS */

    /// @inheritdoc IDisputes
    function challengeOf(uint256 id) external view returns (bytes32) {
        return _challenges[id];
    }

    /* INTERNAL */

    function _challenge(Place memory place, bytes32 leafHash, uint64 price)
        private
        returns (uint256 id)
    {
        // A direct settlement showed all its evidence when it was made.
        if (_isDirect(place)) revert ErrorsLib.AlreadyAnswered();
        _checkNotLate(uint256(place.postedAt) + _SETTLEMENT.OPEN());
        LeafRecord storage leaf = _leaf(place);
        if (leaf.isAnswered) revert ErrorsLib.AlreadyAnswered();
        if (leaf.isChallenged) revert ErrorsLib.AlreadyDisputed();
        leaf.isChallenged = true;
        _takeBond(_SETTLEMENT.CHALLENGE_BOND());
        id = ++_challengeCount;
        Challenge memory challenge = Challenge({
            place: place,
            leafHash: leafHash,
            price: price,
            challenger: msg.sender,
            deadline: uint64(block.timestamp) + _SETTLEMENT.RESPONSE()
        });
        _challenges[id] = keccak256(abi.encode(challenge));
        emit EventsLib.Challenged(id, place.coordinator, msg.sender, challenge);
    }

    function _checkOpen(uint256 id, Challenge calldata challenge) private view {
        bytes32 expected = _challenges[id];
        bytes32 actual = keccak256(abi.encode(challenge));
        if (expected == 0 || expected != actual) {
            revert ErrorsLib.UnknownChallenge(expected, actual);
        }
    }

    function _checkAnswerable(uint256 id, Challenge calldata challenge) private view {
        _checkOpen(id, challenge);
        _checkNotLate(challenge.deadline);
    }

    /// @dev The leaf was shown to be right: nobody needs to ask again.
    function _answer(uint256 id, Place memory place) private {
        delete _challenges[id];
        LeafRecord storage leaf = _leaf(place);
        leaf.isChallenged = false;
        leaf.isAnswered = true;
        emit EventsLib.ChallengeEnded(id, true, msg.sender);
        _reward(msg.sender, _SETTLEMENT.CHALLENGE_BOND());
    }
}
