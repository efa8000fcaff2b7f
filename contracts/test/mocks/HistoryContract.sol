// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

/// @notice Stands at the address of EIP-2935: 32 bytes of number in, 32 bytes of hash out.
contract HistoryContract {
    mapping(uint256 number => bytes32) internal hashes;

    function set(uint256 number, bytes32 hash) external {
        hashes[number] = hash;
    }

    fallback(bytes calldata input) external returns (bytes memory) {
        require(input.length == 32, "the real one reverts too");
        bytes32 hash = hashes[uint256(bytes32(input))];
        require(hash != 0, "out of range");
        return abi.encode(hash);
    }
}
