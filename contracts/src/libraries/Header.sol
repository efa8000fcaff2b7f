// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {ErrorsLib} from "./ErrorsLib.sol";

/// @title Header
/// @notice Takes the mixHash out of a block header in RLP.
/// @dev The caller must have checked that keccak256 of the header is a block hash, so the bytes are
/// a valid header; bounds are checked all the same, and anything odd reverts.
library Header {
    /// @notice Fields before mixHash: parentHash, ommersHash, beneficiary, stateRoot,
    /// transactionsRoot, receiptsRoot, logsBloom, difficulty, number, gasLimit, gasUsed, timestamp,
    /// extraData.
    uint256 internal constant MIX_HASH_FIELD = 13;

    /// @notice The mixHash (prevrandao) of a header.
    function mixHash(bytes calldata rlp) internal pure returns (bytes32) {
        uint256 offset = _skipListPrefix(rlp);
        for (uint256 field = 0; field < MIX_HASH_FIELD; ++field) {
            offset = _skipString(rlp, offset);
        }
        // 0xa0 is the prefix of a string of exactly 32 bytes.
        if (offset + 33 > rlp.length || rlp[offset] != 0xa0) revert ErrorsLib.BadHeader();
        return bytes32(rlp[offset + 1:offset + 33]);
    }

    /// @dev Where the first field starts. The list must fill the bytes exactly.
    function _skipListPrefix(bytes calldata rlp) private pure returns (uint256 start) {
        if (rlp.length < 4 || uint8(rlp[0]) < 0xf8) revert ErrorsLib.BadHeader();
        uint256 lengthBytes = uint8(rlp[0]) - 0xf7;
        // Headers are below 64 KiB, so their length takes one or two bytes.
        if (lengthBytes > 2) revert ErrorsLib.BadHeader();
        uint256 length = uint8(rlp[1]);
        if (lengthBytes == 2) length = (length << 8) | uint8(rlp[2]);
        start = 1 + lengthBytes;
        if (start + length != rlp.length) revert ErrorsLib.BadHeader();
    }

    /// @dev Where the field after the string at `offset` starts.
    function _skipString(bytes calldata rlp, uint256 offset) private pure returns (uint256) {
        if (offset + 3 > rlp.length) revert ErrorsLib.BadHeader();
        uint256 prefix = uint8(rlp[offset]);
        if (prefix < 0x80) return offset + 1;
        if (prefix < 0xb8) return offset + 1 + (prefix - 0x80);
        if (prefix == 0xb8) return offset + 2 + uint8(rlp[offset + 1]);
        if (prefix == 0xb9) {
            return offset + 3 + ((uint256(uint8(rlp[offset + 1])) << 8) | uint8(rlp[offset + 2]));
        }
        revert ErrorsLib.BadHeader();
    }
}
