"""SAEs in the formats of other libraries: a file each, its writer and its reader; all of them meet in our checkpoint."""
