// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {IDisputes} from "../interfaces/IDisputes.sol";
import {Hashing} from "./Hashing.sol";

/// @title LeafFaults
/// @notice What an order alone shows to be wrong with a payment. Python computes the same.
library LeafFaults {
    /// @notice The first fault of a leaf, in the order of the enum; `order` is the leaf's.
    function find(
        IDisputes.Place memory place,
        Hashing.Leaf calldata leaf,
        Hashing.Order calldata order
    ) internal pure returns (IDisputes.LeafFault) {
        if (place.requester != order.requester) {
            return IDisputes.LeafFault.WRONG_REQUESTER;
        }
        if (place.coordinator != order.coordinator) return IDisputes.LeafFault.WRONG_COORDINATOR;
        bool isWork = leaf.line < order.units;
        if (isWork && order.provider != address(0) && order.provider != place.payee) {
            return IDisputes.LeafFault.WRONG_PROVIDER;
        }
        uint256 feeLine = uint256(order.units) + order.checks;
        if (leaf.line > feeLine) return IDisputes.LeafFault.NO_SUCH_LINE;
        if (leaf.price > _cap(order, isWork, leaf.line == feeLine)) {
            return IDisputes.LeafFault.PRICE_TOO_HIGH;
        }
        if (place.postedAt > order.settleBy) return IDisputes.LeafFault.TOO_LATE;
        if (leaf.line == feeLine && !_isFee(place, leaf)) return IDisputes.LeafFault.WRONG_FEE;
        return IDisputes.LeafFault.NONE;
    }

    /// @dev The most that a line may pay.
    function _cap(Hashing.Order calldata order, bool isWork, bool isFee)
        private
        pure
        returns (uint64)
    {
        if (isFee) return order.maxFee;
        return isWork ? order.maxUnitPrice : order.maxCheckPrice;
    }

    /// @dev A fee goes to the coordinator, for the order and nothing else.
    function _isFee(IDisputes.Place memory place, Hashing.Leaf calldata leaf)
        private
        pure
        returns (bool)
    {
        return place.payee == place.coordinator
            && leaf.evidenceHash == Hashing.feeEvidence(leaf.orderHash);
    }
}
