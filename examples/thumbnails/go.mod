module thumbnails

go 1.21
