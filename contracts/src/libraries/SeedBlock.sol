// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {ErrorsLib} from "./ErrorsLib.sol";
import {Header} from "./Header.sol";

/// @title SeedBlock
/// @notice Randomness of one fixed past block: the mixHash in its header, checked against the hash
/// that the chain itself remembers.
library SeedBlock {
    /// @notice EIP-2935: 32 bytes of block number in, 32 bytes of block hash out.
    address internal constant HISTORY = 0x0000F90827F1C53a10cb7A02335B175320002935;
    /// @notice How many blocks EIP-2935 looks back.
    uint256 internal constant HISTORY_WINDOW = 8191;
    /// @notice How many blocks the BLOCKHASH opcode looks back.
    uint256 internal constant BLOCKHASH_WINDOW = 256;

    /// @notice The mixHash of block `number`, whose header in RLP is `headerRLP`. Reverts unless the
    /// block is past, in reach, and has this header.
    function mixHash(uint256 number, bytes calldata headerRLP) internal view returns (bytes32) {
        // A block's hash exists only from the next block on.
        if (block.number <= number) {
            revert ErrorsLib.SeedBlockNotReached(number + 1, block.number);
        }
        if (isTooOld(number)) {
            revert ErrorsLib.SeedBlockTooOld(number + HISTORY_WINDOW, block.number);
        }
        bytes32 expected =
            block.number <= number + BLOCKHASH_WINDOW ? blockhash(number) : _historyHash(number);
        bytes32 actual = keccak256(headerRLP);
        // A chain without EIP-2935 answers nothing; zero must match no header.
        if (expected == 0 || expected != actual) revert ErrorsLib.WrongHeader(expected, actual);
        return Header.mixHash(headerRLP);
    }

    /// @notice Whether the hash of block `number` can no longer be read on chain.
    function isTooOld(uint256 number) internal view returns (bool) {
        return block.number > number + HISTORY_WINDOW;
    }

    /// @dev Block hash by EIP-2935, or zero where the history contract has none.
    function _historyHash(uint256 number) private view returns (bytes32) {
        (bool ok, bytes memory answer) = HISTORY.staticcall(abi.encode(number));
        return ok && answer.length == 32 ? bytes32(answer) : bytes32(0);
    }
}
