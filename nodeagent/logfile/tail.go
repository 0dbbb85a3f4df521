package logfile

import (
	"bytes"
	"io"
	"os"
	"slices"
)

// seekTail seeks to the last n lines of the files (oldest first), closes those
// that are not needed and answers with the others. An unfinished line at the
// end does not count.
func seekTail(files []*os.File, n int) ([]*os.File, error) {
	for i, file := range slices.Backward(files) {
		found, err := seekLines(file, n)
		if err != nil {
			return files, err
		}
		if n -= found; n <= 0 {
			closeAll(files[:i])
			return files[i:], nil
		}
	}
	return files, nil
}

// seekLines seeks to the start of the last n lines of f, or of f when it has
// fewer, and answers with how many there are from there.
func seekLines(f *os.File, n int) (found int, err error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	buf := make([]byte, 32<<10)
	for end := st.Size(); end > 0; {
		start := max(0, end-int64(len(buf)))
		b := buf[:end-start]
		if _, err := f.ReadAt(b, start); err != nil && err != io.EOF {
			return 0, err
		}
		for {
			i := bytes.LastIndexByte(b, '\n')
			if i < 0 {
				break
			}
			if found == n { // this newline ends the line before
				_, err := f.Seek(start+int64(i)+1, io.SeekStart)
				return found, err
			}
			found++
			b = b[:i]
		}
		end = start
	}
	_, err = f.Seek(0, io.SeekStart)
	return found, err
}
