// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.37;

import {ErrorsLib} from "../../src/libraries/ErrorsLib.sol";
import {Header} from "../../src/libraries/Header.sol";
import {Fixture} from "../Fixture.sol";
import {VM} from "../Vm.sol";

contract HeaderTest is Fixture {
    function testFuzz_MixHashIsTakenFromItsField(bytes32 mixHash) external view {
        assertEq(this.read(_header(mixHash)), mixHash, "field 13");
    }

    function test_ShortHeaderWithALengthOfOneByte() external view {
        bytes memory fields = new bytes(13);
        for (uint256 i = 0; i < 13; ++i) {
            fields[i] = 0x80;
        }
        fields = bytes.concat(fields, hex"a0", keccak256("mix"), new bytes(20));
        bytes memory rlp = bytes.concat(hex"f8", bytes1(uint8(fields.length)), fields);
        assertEq(this.read(rlp), keccak256("mix"), "field 13");
    }

    function testFuzz_CutHeadersAreRefused(uint256 length) external {
        bytes memory header = _header(keccak256("mix"));
        length = length % header.length;
        assembly ("memory-safe") {
            mstore(header, length)
        }
        _expectBad();
        this.read(header);
    }

    function testFuzz_AnyBytesAreReadOrRefused(bytes calldata junk) external view {
        (bool ok, bytes memory answer) = address(this).staticcall(abi.encodeCall(this.read, (junk)));
        require(ok || bytes4(answer) == ErrorsLib.BadHeader.selector, "no other failure");
    }

    function testFuzz_BytesWithAListPrefixAreReadOrRefused(bytes calldata junk) external view {
        bytes memory rlp = bytes.concat(hex"f9", bytes2(uint16(junk.length)), junk);
        (bool ok, bytes memory answer) = address(this).staticcall(abi.encodeCall(this.read, (rlp)));
        require(ok || bytes4(answer) == ErrorsLib.BadHeader.selector, "no other failure");
    }

    function test_RevertWhen_TheMixHashIsNot32Bytes() external {
        bytes memory header = _header(keccak256("mix"));
        bytes32 prefixAndHash = keccak256(abi.encodePacked(keccak256("mix")));
        for (uint256 i = 0; i < header.length - 33; ++i) {
            if (header[i] == 0xa0 && _wordAt(header, i + 1) == prefixAndHash) header[i] = 0x9f;
        }
        _expectBad();
        this.read(header);
    }

    function read(bytes calldata rlp) external pure returns (bytes32) {
        return Header.mixHash(rlp);
    }

    /// @dev keccak256 of the 32 bytes from `start`.
    function _wordAt(bytes memory data, uint256 start) internal pure returns (bytes32 hash) {
        assembly ("memory-safe") {
            hash := keccak256(add(add(data, 32), start), 32)
        }
    }

    function _expectBad() internal {
        VM.expectRevert(abi.encodeWithSelector(ErrorsLib.BadHeader.selector));
    }
}
