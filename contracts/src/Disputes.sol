// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Challenges} from "./disputes/Challenges.sol";
import {Direct} from "./disputes/Direct.sol";
import {Judge} from "./disputes/Judge.sol";
import {Proofs} from "./disputes/Proofs.sol";
import {IDisputes} from "./interfaces/IDisputes.sol";
import {ErrorsLib} from "./libraries/ErrorsLib.sol";

/// @title Disputes
/// @notice See IDisputes. Challenges, proofs and direct settlement; Jury has the rest.
contract Disputes is Challenges, Proofs, Direct {
    /* CONSTRUCTOR */

    constructor(address settlement) Judge(settlement) {}

    /* JURY */

    /// @inheritdoc IDisputes
    function holdForJury(Batch calldata batch, Opening calldata opening)
        external
        returns (Place memory place)
    {
        _checkJury();
        place = _open(batch, opening);
        LeafRecord storage leaf = _leaf(place);
        if (leaf.isAccused) revert ErrorsLib.AlreadyDisputed();
        if (leaf.isJudged) revert ErrorsLib.AlreadyJudged();
        leaf.isAccused = true;
        _holdLeaf(place, opening.leaf.price);
    }

    /// @inheritdoc IDisputes
    function endHold(Place calldata place, uint64 price, uint8 verdict) external {
        _checkJury();
        LeafRecord storage leaf = _leaf(place);
        leaf.isAccused = false;
        leaf.isJudged = verdict != 0;
        // Void already by a challenge or proof of its own: refunded then, and the verdict stands.
        if (verdict == MISMATCH && !leaf.isVoid) _voidLeaf(place, price, Cause.CONVICTED);
        _releaseLeaf(place, price);
    }

    /* INTERNAL */

    function _checkJury() private view {
        address jury = address(_SETTLEMENT.JURY());
        if (msg.sender != jury) revert ErrorsLib.NotAuthorized(jury, msg.sender);
    }
}
