package engine

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
)

// preparePause makes the root file system that all pause processes share,
// read-only: the program and the mount points. Its directory is named after
// the program's digest, so that a new program does not change a running one's.
func preparePause(stateDir string, program []byte) (string, error) {
	sum := sha256.Sum256(program)
	root := filepath.Join(stateDir, "pause", hex.EncodeToString(sum[:6]))
	for _, d := range []string{"proc", "dev", "sys"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			return "", fmt.Errorf("make pause file system: %w", err)
		}
	}
	path := filepath.Join(root, "pause")
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, program) {
		return root, nil
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, program, 0o755); err != nil {
		return "", fmt.Errorf("write pause program: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return "", fmt.Errorf("write pause program: %w", err)
	}
	return root, nil
}
